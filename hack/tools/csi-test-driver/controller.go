package main

import (
	"context"
	"os"
	"sort"
	"strconv"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const (
	defaultSize = 1 << 30
	zoneKey     = "topology.kubernetes.io/zone"
)

type controller struct {
	csi.UnimplementedControllerServer
	*store
	faults faults
}

func (c *controller) ControllerGetCapabilities(
	context.Context, *csi.ControllerGetCapabilitiesRequest,
) (*csi.ControllerGetCapabilitiesResponse, error) {
	answer := &csi.ControllerGetCapabilitiesResponse{}
	for _, can := range []csi.ControllerServiceCapability_RPC_Type{
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME,
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_SNAPSHOT,
		csi.ControllerServiceCapability_RPC_LIST_SNAPSHOTS,
		csi.ControllerServiceCapability_RPC_CLONE_VOLUME,
		csi.ControllerServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
	} {
		answer.Capabilities = append(answer.Capabilities, &csi.ControllerServiceCapability{
			Type: &csi.ControllerServiceCapability_Rpc{Rpc: &csi.ControllerServiceCapability_RPC{Type: can}},
		})
	}
	return answer, nil
}

func (c *controller) CreateVolume(_ context.Context, request *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	c.Lock()
	defer c.Unlock()
	if v := c.volumeNamed(request.Name); v != nil {
		return created(v, request), nil
	}
	v := &volume{ID: newID("vol"), Name: request.Name, Size: request.GetCapacityRange().GetRequiredBytes(), Targets: map[string]bool{}}
	if v.Size == 0 {
		v.Size = defaultSize
	}
	for _, capability := range request.VolumeCapabilities {
		v.Block = v.Block || capability.GetBlock() != nil
	}
	v.Limited = request.Parameters["limited"] == "true" && !v.Block
	for _, topology := range request.GetAccessibilityRequirements().GetPreferred() {
		if v.Zone == "" {
			v.Zone = topology.Segments[zoneKey]
		}
	}
	source, err := c.sourceOf(request.VolumeContentSource, v)
	if err != nil {
		return nil, err
	}
	if err := c.fill(v, source); err != nil {
		_ = os.RemoveAll(c.volumePath(v.ID))
		return nil, err
	}
	c.Volumes[v.ID] = v
	return created(v, request), c.save()
}

// sourceOf finds what a volume is to be a copy of: a path, or nothing.
func (c *controller) sourceOf(content *csi.VolumeContentSource, v *volume) (string, error) {
	if from := content.GetSnapshot(); from != nil {
		s := c.Snapshots[from.SnapshotId]
		if s == nil {
			return "", status.Errorf(codes.NotFound, "there is no snapshot %s", from.SnapshotId)
		}
		if s.Block != v.Block {
			return "", status.Error(codes.InvalidArgument, "the snapshot is of a volume in the other mode")
		}
		v.Source = s.ID
		return c.snapshotPath(s.ID), nil
	}
	if from := content.GetVolume(); from != nil {
		other, err := c.volume(from.VolumeId)
		if err != nil {
			return "", err
		}
		v.Source = other.ID
		return c.volumePath(other.ID), nil
	}
	return "", nil
}

func (c *controller) fill(v *volume, source string) error {
	path := c.volumePath(v.ID)
	if source != "" {
		if err := copyTree(source, path, v.Block); err != nil {
			return err
		}
	} else if v.Block {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			return err
		}
	} else {
		if err := os.Mkdir(path, 0o777); err != nil {
			return err
		}
		return os.Chmod(path, 0o777) // whatever the umask is: pods run as any user
	}
	if v.Block {
		return os.Truncate(path, v.Size)
	}
	return nil
}

func created(v *volume, request *csi.CreateVolumeRequest) *csi.CreateVolumeResponse {
	answer := &csi.Volume{
		VolumeId: v.ID, CapacityBytes: v.Size, ContentSource: request.VolumeContentSource, VolumeContext: request.Parameters,
	}
	if v.Zone != "" {
		answer.AccessibleTopology = []*csi.Topology{{Segments: map[string]string{zoneKey: v.Zone}}}
	}
	return &csi.CreateVolumeResponse{Volume: answer}
}

func (c *controller) DeleteVolume(_ context.Context, request *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	c.Lock()
	defer c.Unlock()
	v := c.Volumes[request.VolumeId]
	if v == nil {
		return &csi.DeleteVolumeResponse{}, nil
	}
	if len(v.Targets) > 0 { // the provisioner does not wait for the kubelet; it comes again
		return nil, status.Errorf(codes.FailedPrecondition, "volume %s is in use", v.ID)
	}
	if path := c.volumePath(v.ID); v.Limited && mounted(path) {
		if err := run("umount", path); err != nil {
			return nil, err
		}
	}
	if err := os.RemoveAll(c.volumePath(v.ID)); err != nil {
		return nil, err
	}
	delete(c.Volumes, v.ID)
	return &csi.DeleteVolumeResponse{}, c.save()
}

func (c *controller) ValidateVolumeCapabilities(
	_ context.Context, request *csi.ValidateVolumeCapabilitiesRequest,
) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	return &csi.ValidateVolumeCapabilitiesResponse{
		Confirmed: &csi.ValidateVolumeCapabilitiesResponse_Confirmed{VolumeCapabilities: request.VolumeCapabilities},
	}, nil
}

func (c *controller) CreateSnapshot(_ context.Context, request *csi.CreateSnapshotRequest) (*csi.CreateSnapshotResponse, error) {
	c.Lock()
	defer c.Unlock()
	s := c.snapshotNamed(request.Name)
	if s == nil {
		v, err := c.volume(request.SourceVolumeId)
		if err != nil {
			return nil, err
		}
		s = &snapshot{ID: newID("snap"), Name: request.Name, Source: v.ID, Size: v.Size, Block: v.Block, Created: time.Now()}
		if text := request.Parameters["snapshotReadySeconds"]; text != "" {
			if s.ReadySeconds, err = strconv.ParseFloat(text, 64); err != nil {
				return nil, status.Errorf(codes.InvalidArgument, "snapshotReadySeconds: %v", err)
			}
		}
		if err := copyTree(c.volumePath(v.ID), c.snapshotPath(s.ID), v.Block); err != nil {
			return nil, err
		}
		c.Snapshots[s.ID] = s
		if err := c.save(); err != nil {
			return nil, err
		}
	}
	answer, err := c.described(s)
	return &csi.CreateSnapshotResponse{Snapshot: answer}, err
}

func (c *controller) described(s *snapshot) (*csi.Snapshot, error) {
	ready, err := c.faults.snapshotReady(s)
	return &csi.Snapshot{
		SnapshotId: s.ID, SourceVolumeId: s.Source, SizeBytes: s.Size, CreationTime: timestamppb.New(s.Created), ReadyToUse: ready,
	}, err
}

func (c *controller) DeleteSnapshot(_ context.Context, request *csi.DeleteSnapshotRequest) (*csi.DeleteSnapshotResponse, error) {
	c.Lock()
	defer c.Unlock()
	if c.Snapshots[request.SnapshotId] == nil {
		return &csi.DeleteSnapshotResponse{}, nil
	}
	if err := os.RemoveAll(c.snapshotPath(request.SnapshotId)); err != nil {
		return nil, err
	}
	delete(c.Snapshots, request.SnapshotId)
	return &csi.DeleteSnapshotResponse{}, c.save()
}

func (c *controller) ListSnapshots(_ context.Context, request *csi.ListSnapshotsRequest) (*csi.ListSnapshotsResponse, error) {
	c.Lock()
	defer c.Unlock()
	answer := &csi.ListSnapshotsResponse{}
	for _, s := range c.Snapshots {
		if (request.SnapshotId == "" || request.SnapshotId == s.ID) && (request.SourceVolumeId == "" || request.SourceVolumeId == s.Source) {
			one, err := c.described(s)
			if err != nil {
				return nil, err
			}
			answer.Entries = append(answer.Entries, &csi.ListSnapshotsResponse_Entry{Snapshot: one})
		}
	}
	sort.Slice(answer.Entries, func(i, j int) bool {
		return answer.Entries[i].Snapshot.SnapshotId < answer.Entries[j].Snapshot.SnapshotId
	})
	return answer, nil
}
