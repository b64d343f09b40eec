// Prints the custom resource definitions of one release of Velero as a List that kubectl applies.
//
// Velero publishes its definitions only as packages of its Go module, so the release is the one that the module file
// in use pins: go.mod, or one of velero-*.mod by `go run -modfile`.
package main

import (
	"encoding/json"
	"log"
	"os"

	v1 "github.com/vmware-tanzu/velero/config/crd/v1/crds"
	v2alpha1 "github.com/vmware-tanzu/velero/config/crd/v2alpha1/crds"
	"k8s.io/apimachinery/pkg/runtime"
)

func main() {
	list := map[string]any{"apiVersion": "v1", "kind": "List"}
	var items []any
	for _, definition := range append(v1.CRDs, v2alpha1.CRDs...) {
		object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(definition)
		if err != nil {
			log.Fatal(err)
		}
		delete(object, "status") // the API server's to write
		items = append(items, object)
	}
	list["items"] = items
	out := json.NewEncoder(os.Stdout)
	out.SetIndent("", " ")
	if err := out.Encode(list); err != nil {
		log.Fatal(err)
	}
}
