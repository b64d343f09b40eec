// A CSI driver for tests: volumes are directories (Filesystem) or sparse files behind a loop device (Block), snapshots
// are full copies, and everything lies in one folder of one machine where tests can look at it.
//
// It serves identity, controller and node in one process, as the side-cars and the kubelet expect, and registers itself
// with the kubelet, so that no registrar is needed. With -kubelet-dir "" it serves without a kubelet. The CSIDriver
// object has to say attachRequired: false.
//
//	-state/vol/<id>    a volume: a directory or an image file
//	-state/snap/<id>   a snapshot, in the same form
//	-state/state.json  what is known of them; a driver that is started again goes on from there
//
// What goes wrong is said in the file that -faults names, read anew for each call; see faults.go.
//
// `csi-test-driver publish|unpublish -endpoint … -volume … -target …` asks a running driver for what a kubelet would.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log"
	"net"
	"os"
	"path/filepath"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

type options struct {
	name, node, zone, state, endpoint, kubelet, faults string
}

func main() {
	if len(os.Args) > 1 && (os.Args[1] == "publish" || os.Args[1] == "unpublish") {
		if err := call(os.Args[1], os.Args[2:]); err != nil {
			log.Fatal(err)
		}
		return
	}
	var o options
	flag.StringVar(&o.name, "driver", "dir.csi.lighterage.test", "name of the driver")
	flag.StringVar(&o.node, "node", "node1", "this node's id")
	flag.StringVar(&o.zone, "zone", "", "this node's zone; volumes then belong to the zone that they were asked for in")
	flag.StringVar(&o.state, "state", "", "folder of volumes and snapshots (required)")
	flag.StringVar(&o.endpoint, "endpoint", "", "socket to serve on (default: the driver's folder below -kubelet-dir)")
	flag.StringVar(&o.kubelet, "kubelet-dir", "/var/lib/kubelet", "the kubelet's root folder; empty: there is no kubelet")
	flag.StringVar(&o.faults, "faults", "", "file that says what has to go wrong")
	flag.Parse()
	if o.endpoint == "" && o.kubelet != "" {
		o.endpoint = filepath.Join(o.kubelet, "plugins", o.name, "csi.sock")
	}
	if o.state == "" || o.endpoint == "" {
		log.Fatal("-state, and one of -endpoint and -kubelet-dir, are required")
	}
	if err := serve(o); err != nil {
		log.Fatal(err)
	}
}

func serve(o options) error {
	kept, err := openStore(o.state)
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.ChainUnaryInterceptor(logCalls, faults(o.faults).interceptor))
	csi.RegisterIdentityServer(server, &identity{name: o.name, zoned: o.zone != ""})
	csi.RegisterControllerServer(server, &controller{store: kept, faults: faults(o.faults)})
	csi.RegisterNodeServer(server, &node{store: kept, id: o.node, zone: o.zone})
	listener, err := listen(o.endpoint)
	if err != nil {
		return err
	}
	failed := make(chan error, 2)
	if o.kubelet != "" {
		socket, err := listen(filepath.Join(o.kubelet, "plugins_registry", o.name+"-reg.sock"))
		if err != nil {
			return err
		}
		registrar := grpc.NewServer()
		registration.RegisterRegistrationServer(registrar, &kubeletRegistration{name: o.name, endpoint: o.endpoint})
		go func() { failed <- registrar.Serve(socket) }()
	}
	go func() { failed <- server.Serve(listener) }()
	fmt.Println("serving", o.endpoint)
	return <-failed
}

// listen makes a socket, in place of one that an earlier run left behind.
func listen(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, err
	}
	return net.Listen("unix", path)
}
