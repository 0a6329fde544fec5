// etcd and its clients in one program, which acts as the one by whose name it is called.
package main

import (
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/etcdctl/v3/ctlv3"
	"go.etcd.io/etcd/etcdutl/v3/etcdutl"
	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() {
	switch filepath.Base(os.Args[0]) {
	case "etcdctl":
		ctlv3.MustStart()
	case "etcdutl":
		// Upstream's main is no package that can be imported; these two are what a restore needs.
		root := &cobra.Command{Use: "etcdutl", Short: "works on the files of a stopped etcd"}
		root.PersistentFlags().StringVarP(&etcdutl.OutputFormat, "write-out", "w", "simple", "simple, json, table, fields or protobuf")
		root.AddCommand(etcdutl.NewSnapshotCommand(), etcdutl.NewVersionCommand())
		if root.Execute() != nil {
			os.Exit(1)
		}
	default:
		etcdmain.Main(os.Args)
	}
}
