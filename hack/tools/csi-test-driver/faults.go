package main

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// faults is the path of the file that a test writes to make calls fail or dawdle; no file, no faults:
//
//	{"fail": {"CreateVolume": "the backend is full"}, "delaySeconds": {"NodeStageVolume": 5}, "snapshotReadySeconds": 20}
//
// Calls are named as in the CSI specification. A message that begins with the name of a code, as "INVALID_ARGUMENT: …",
// fails with that code, any other with INTERNAL. A test replaces the file by renaming another one onto it.
//
// A test beside others asks for faults of its own volumes with a class: parameters of a StorageClass or a
// VolumeSnapshotClass named "fail-<call>" hold the message, "snapshotReadySeconds" works as above, and "limited" gives
// volumes no more room than they asked for.
type faults string

const failParameter = "fail-"

type faultFile struct {
	Fail                 map[string]string
	DelaySeconds         map[string]float64
	SnapshotReadySeconds float64
}

func (f faults) read() (faultFile, error) {
	var asked faultFile
	if f == "" {
		return asked, nil
	}
	text, err := os.ReadFile(string(f))
	if errors.Is(err, fs.ErrNotExist) {
		return asked, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &asked)
	}
	if err != nil {
		return asked, status.Errorf(codes.Internal, "the file of faults: %v", err)
	}
	return asked, nil
}

// snapshotReady says whether a snapshot can be used by now.
func (f faults) snapshotReady(s *snapshot) (bool, error) {
	asked, err := f.read()
	return time.Since(s.Created) >= seconds(max(asked.SnapshotReadySeconds, s.ReadySeconds)), err
}

func (f faults) interceptor(ctx context.Context, request any, call *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	asked, err := f.read()
	if err != nil {
		return nil, err
	}
	name := path.Base(call.FullMethod)
	if delay := seconds(asked.DelaySeconds[name]); delay > 0 {
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		}
	}
	for _, message := range []string{asked.Fail[name], parameter(request, failParameter+name)} {
		if message != "" {
			return nil, failure(message)
		}
	}
	return handle(ctx, request)
}

// failure is the error that a message asks for.
func failure(message string) error {
	name, rest, found := strings.Cut(message, ": ")
	var code codes.Code
	if !found || code.UnmarshalJSON([]byte(strconv.Quote(name))) != nil {
		return status.Error(codes.Internal, message)
	}
	return status.Error(code, rest)
}

// parameter is what the class behind a request says, or nothing.
func parameter(request any, name string) string {
	switch r := request.(type) {
	case interface{ GetParameters() map[string]string }:
		return r.GetParameters()[name]
	case interface{ GetVolumeContext() map[string]string }:
		return r.GetVolumeContext()[name]
	}
	return ""
}

func seconds(n float64) time.Duration { return time.Duration(n * float64(time.Second)) }

// logCalls writes a line for each call that is not mere polling.
func logCalls(ctx context.Context, request any, call *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	started := time.Now()
	answer, err := handle(ctx, request)
	if name := path.Base(call.FullMethod); name != "Probe" && !strings.HasSuffix(name, "Capabilities") {
		log.Printf("%s %v -> %v, %v (%v)", name, request, answer, err, time.Since(started).Round(time.Millisecond))
	}
	return answer, err
}
