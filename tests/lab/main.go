// kubelab is the real Kubernetes of the cluster tests in one binary, without containers and with no download
// but Go modules: etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kubelet and kubectl are the
// upstream code, linked in. The first argument picks the component, the rest are its own flags. tests/cluster
// builds it once, starts it once per component, and is the only user.
package main

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/signal"
	"syscall"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"k8s.io/component-base/cli"
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: kubelab etcd|kube-apiserver|kube-controller-manager|kube-scheduler|kubelet|kubectl FLAGS...")
		os.Exit(2)
	}
	component := os.Args[1]
	os.Args = append([]string{component}, os.Args[2:]...)
	switch component {
	case "etcd":
		if len(os.Args) != 4 {
			fmt.Fprintln(os.Stderr, "usage: kubelab etcd DIRECTORY CLIENT_URL PEER_URL")
			os.Exit(2)
		}
		runEtcd(os.Args[1], os.Args[2], os.Args[3])
	case "kube-apiserver":
		os.Exit(cli.Run(apiserver.NewAPIServerCommand()))
	case "kube-controller-manager":
		os.Exit(cli.Run(controllermanager.NewControllerManagerCommand()))
	case "kube-scheduler":
		os.Exit(cli.Run(scheduler.NewSchedulerCommand()))
	case "kubelet":
		os.Exit(cli.Run(kubelet.NewKubeletCommand(context.Background())))
	case "kubectl":
		os.Exit(cli.Run(kubectl.NewDefaultKubectlCommand()))
	default:
		fmt.Fprintf(os.Stderr, "kubelab: no component %q\n", component)
		os.Exit(2)
	}
}

// runEtcd serves one etcd member until SIGINT or SIGTERM. fsync is off: the data is thrown away.
func runEtcd(dir, clientURL, peerURL string) {
	config := embed.NewConfig()
	config.Dir = dir
	config.ListenClientUrls = mustParse(clientURL)
	config.AdvertiseClientUrls = config.ListenClientUrls
	config.ListenPeerUrls = mustParse(peerURL)
	config.AdvertisePeerUrls = config.ListenPeerUrls
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	config.LogLevel = "warn"
	config.QuotaBackendBytes = 8 << 30
	config.UnsafeNoFsync = true
	config.WarningUnaryRequestDuration = 300 * time.Millisecond // zero logs every request
	member, err := embed.StartEtcd(config)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	defer member.Close()
	select {
	case <-member.Server.ReadyNotify():
	case <-time.After(time.Minute):
		fmt.Fprintln(os.Stderr, "etcd did not become ready within a minute")
		os.Exit(1)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	<-stop
}

func mustParse(raw string) []url.URL {
	parsed, err := url.Parse(raw)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	return []url.URL{*parsed}
}
