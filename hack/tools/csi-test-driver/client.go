package main

import (
	"context"
	"errors"
	"flag"
	"path/filepath"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// request is what a kubelet that is only played asks of a driver that runs: `csi-test-driver publish …`.
type request struct {
	endpoint, volume, target string
	block, readOnly          bool
}

func (r *request) flags(arguments []string) error {
	set := flag.NewFlagSet("publish", flag.ExitOnError)
	set.StringVar(&r.endpoint, "endpoint", "", "socket of the driver")
	set.StringVar(&r.volume, "volume", "", "id of the volume")
	set.StringVar(&r.target, "target", "", "path where a pod has it")
	set.BoolVar(&r.block, "block", false, "as a device")
	set.BoolVar(&r.readOnly, "read-only", false, "not to be written to")
	if err := set.Parse(arguments); err != nil {
		return err
	}
	if r.endpoint == "" || r.volume == "" || r.target == "" {
		return errors.New("-endpoint, -volume and -target are required")
	}
	return nil
}

// call does one step as the kubelet does: stage and publish, or unpublish and unstage.
func call(step string, arguments []string) error {
	var r request
	if err := r.flags(arguments); err != nil {
		return err
	}
	connection, err := grpc.NewClient("unix:"+r.endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	client := csi.NewNodeClient(connection)
	staging := filepath.Join(filepath.Dir(r.endpoint), "staged", r.volume)
	if step == "publish" {
		_, err := client.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{
			VolumeId: r.volume, StagingTargetPath: staging, VolumeCapability: r.capability(),
		})
		if err == nil {
			_, err = client.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
				VolumeId: r.volume, StagingTargetPath: staging, TargetPath: r.target,
				VolumeCapability: r.capability(), Readonly: r.readOnly,
			})
		}
		return err
	}
	_, err = client.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: r.volume, TargetPath: r.target})
	if err == nil {
		_, err = client.NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{VolumeId: r.volume, StagingTargetPath: staging})
	}
	return err
}

func (r *request) capability() *csi.VolumeCapability {
	mode := csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER
	if r.readOnly {
		mode = csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY
	}
	capability := &csi.VolumeCapability{AccessMode: &csi.VolumeCapability_AccessMode{Mode: mode}}
	if r.block {
		capability.AccessType = &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}
	} else {
		capability.AccessType = &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}}
	}
	return capability
}
