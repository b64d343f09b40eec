package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// node brings volumes to pods: a Filesystem volume by a bind mount, a Block volume by one loop device per volume.
type node struct {
	csi.UnimplementedNodeServer
	*store
	id, zone string
}

func (n *node) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	answer := &csi.NodeGetInfoResponse{NodeId: n.id}
	if n.zone != "" {
		answer.AccessibleTopology = &csi.Topology{Segments: map[string]string{zoneKey: n.zone}}
	}
	return answer, nil
}

func (n *node) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	answer := &csi.NodeGetCapabilitiesResponse{}
	for _, can := range []csi.NodeServiceCapability_RPC_Type{
		csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME,
		csi.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
	} {
		answer.Capabilities = append(answer.Capabilities, &csi.NodeServiceCapability{
			Type: &csi.NodeServiceCapability_Rpc{Rpc: &csi.NodeServiceCapability_RPC{Type: can}},
		})
	}
	return answer, nil
}

func (n *node) NodeStageVolume(_ context.Context, request *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	n.Lock()
	defer n.Unlock()
	v, err := n.volume(request.VolumeId)
	if err != nil {
		return nil, err
	}
	if path := n.volumePath(v.ID); v.Limited && !mounted(path) {
		options := fmt.Sprintf("size=%d,mode=777", v.Size)
		return &csi.NodeStageVolumeResponse{}, run("mount", "-t", "tmpfs", "-o", options, "limited", path)
	}
	if !v.Block || v.Device != "" {
		return &csi.NodeStageVolumeResponse{}, nil
	}
	arguments := []string{"--find", "--show", "--nooverlap"}
	if readOnly(request.VolumeCapability) {
		arguments = append(arguments, "--read-only")
	}
	out, err := exec.Command("losetup", append(arguments, n.volumePath(v.ID))...).CombinedOutput()
	if err != nil {
		return nil, status.Errorf(codes.Internal, "losetup: %v: %s", err, out)
	}
	v.Device = strings.TrimSpace(string(out))
	return &csi.NodeStageVolumeResponse{}, n.save()
}

func readOnly(capability *csi.VolumeCapability) bool {
	mode := capability.GetAccessMode().GetMode()
	return mode == csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY || mode == csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY
}

func (n *node) NodeUnstageVolume(_ context.Context, request *csi.NodeUnstageVolumeRequest) (*csi.NodeUnstageVolumeResponse, error) {
	n.Lock()
	defer n.Unlock()
	v := n.Volumes[request.VolumeId]
	if v == nil || v.Device == "" || len(v.Targets) > 0 {
		return &csi.NodeUnstageVolumeResponse{}, nil
	}
	if err := run("losetup", "--detach", v.Device); err != nil {
		return nil, err
	}
	v.Device = ""
	return &csi.NodeUnstageVolumeResponse{}, n.save()
}

func (n *node) NodePublishVolume(_ context.Context, request *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	n.Lock()
	defer n.Unlock()
	v, err := n.volume(request.VolumeId)
	if err != nil {
		return nil, err
	}
	if mounted(request.TargetPath) {
		return &csi.NodePublishVolumeResponse{}, nil
	}
	source, err := n.prepareTarget(v, request.TargetPath)
	if err != nil {
		return nil, err
	}
	if err := run("mount", "--bind", source, request.TargetPath); err != nil {
		return nil, err
	}
	if request.Readonly && !v.Block {
		if err := run("mount", "-o", "remount,bind,ro", request.TargetPath); err != nil {
			return nil, err
		}
	}
	v.Targets[request.TargetPath] = true
	return &csi.NodePublishVolumeResponse{}, n.save()
}

// prepareTarget makes what a volume is mounted on, and returns what is mounted there.
func (n *node) prepareTarget(v *volume, target string) (string, error) {
	if !v.Block {
		return n.volumePath(v.ID), os.MkdirAll(target, 0o750)
	}
	if v.Device == "" {
		return "", status.Errorf(codes.FailedPrecondition, "volume %s is not staged", v.ID)
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return "", err
	}
	file, err := os.OpenFile(target, os.O_CREATE, 0o660)
	if err != nil {
		return "", err
	}
	return v.Device, file.Close()
}

func (n *node) NodeUnpublishVolume(_ context.Context, request *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	n.Lock()
	defer n.Unlock()
	if mounted(request.TargetPath) {
		if err := run("umount", request.TargetPath); err != nil {
			return nil, err
		}
	}
	if err := os.Remove(request.TargetPath); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	if v := n.Volumes[request.VolumeId]; v != nil {
		delete(v.Targets, request.TargetPath)
		return &csi.NodeUnpublishVolumeResponse{}, n.save()
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

func mounted(path string) bool {
	text, _ := os.ReadFile("/proc/self/mountinfo")
	for _, line := range strings.Split(string(text), "\n") {
		if fields := strings.Fields(line); len(fields) > 4 && fields[4] == path {
			return true
		}
	}
	return false
}
