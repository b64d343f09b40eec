package main

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

type volume struct {
	ID, Name, Source string
	Size             int64
	Block            bool
	Zone             string
	Limited          bool            // in memory, where it has no more room than it asked for
	Device           string          // the loop device while it is staged
	Targets          map[string]bool // paths where it is published
}

type snapshot struct {
	ID, Name, Source string
	Size             int64
	Block            bool
	Created          time.Time
	ReadySeconds     float64
}

// store is all that the driver knows, kept in a file. Whoever reads or changes it holds the lock.
type store struct {
	sync.Mutex `json:"-"`
	folder     string
	Volumes    map[string]*volume
	Snapshots  map[string]*snapshot
}

func openStore(folder string) (*store, error) {
	s := &store{folder: folder, Volumes: map[string]*volume{}, Snapshots: map[string]*snapshot{}}
	for _, kind := range []string{"vol", "snap"} {
		if err := os.MkdirAll(filepath.Join(folder, kind), 0o755); err != nil {
			return nil, err
		}
	}
	text, err := os.ReadFile(s.path())
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err == nil {
		err = json.Unmarshal(text, s)
	}
	return s, err
}

func (s *store) path() string                  { return filepath.Join(s.folder, "state.json") }
func (s *store) volumePath(id string) string   { return filepath.Join(s.folder, "vol", id) }
func (s *store) snapshotPath(id string) string { return filepath.Join(s.folder, "snap", id) }
func (s *store) volumeNamed(name string) *volume {
	return named(s.Volumes, func(v *volume) bool { return v.Name == name })
}
func (s *store) snapshotNamed(name string) *snapshot {
	return named(s.Snapshots, func(x *snapshot) bool { return x.Name == name })
}

func named[T any](all map[string]*T, is func(*T) bool) *T {
	for _, one := range all {
		if is(one) {
			return one
		}
	}
	return nil
}

func (s *store) volume(id string) (*volume, error) {
	if v := s.Volumes[id]; v != nil {
		return v, nil
	}
	return nil, status.Errorf(codes.NotFound, "there is no volume %s", id)
}

func (s *store) save() error {
	text, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(s.path()+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(s.path()+".new", s.path())
}

// copyTree copies a volume or a snapshot, content and metadata; what a failed copy leaves behind is removed.
func copyTree(from, to string, block bool) error {
	how := []string{"-a", "--reflink=auto", from, to}
	if block {
		how = append([]string{"--sparse=always"}, how...)
	}
	err := run("cp", how...)
	if err != nil {
		_ = os.RemoveAll(to)
	}
	return err
}

func run(program string, arguments ...string) error {
	if out, err := exec.Command(program, arguments...).CombinedOutput(); err != nil {
		return status.Errorf(codes.Internal, "%s %v: %v: %s", program, arguments, err, out)
	}
	return nil
}

func newID(kind string) string {
	b := make([]byte, 8)
	_, _ = rand.Read(b)
	return kind + "-" + hex.EncodeToString(b)
}
