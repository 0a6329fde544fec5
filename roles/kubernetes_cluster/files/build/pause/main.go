// Pause is the first process of every pod: it holds the pod's namespaces, buries orphans and waits for the end.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
)

func main() {
	// By a pod that ends after this kubeadm sees whether a cluster is well, before it upgrades it.
	if len(os.Args) > 1 && os.Args[1] == "-v" {
		fmt.Println("pause of the caesar testbed")
		return
	}
	debug.SetGCPercent(-1) // nothing is allocated from here on; the collector's threads are saved
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGCHLD, syscall.SIGINT, syscall.SIGTERM)
	for received := range signals {
		if received != syscall.SIGCHLD {
			return
		}
		for {
			if child, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); child <= 0 || err != nil {
				break
			}
		}
	}
}
