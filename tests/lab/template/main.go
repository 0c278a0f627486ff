// Renders a template of containerd's configuration as k3s and RKE2 do: Go's text/template, with the same fields, and a base template
// that names the same tables. The base is a stand-in: what matters is which tables and keys it has, not their values.
//
//	template [-version 2|3] [-found NAME=PROGRAM] [-default NAME] FILE
package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"text/template"
)

type runtime struct {
	RuntimeType string
	BinaryName  string
}

type mirror struct {
	Endpoints []string
}

type registry struct {
	Mirrors map[string]mirror
}

type paths struct {
	Opt   string
	Root  string
	State string
}

type agent struct {
	Snapshotter string
	PauseImage  string
	CNIBinDir   string
	CNIConfDir  string
}

type node struct {
	SELinux        bool
	NoFlannel      bool
	DefaultRuntime string
	Containerd     paths
	AgentConfig    agent
}

type data struct {
	NodeConfig            *node
	DisableCgroup         bool
	SystemdCgroup         bool
	IsRunningInUserNS     bool
	PrivateRegistryConfig *registry
	ExtraRuntimes         map[string]runtime
	Program               string
}

const base2 = `
# made by {{ .Program }}
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  enable_selinux = {{ .NodeConfig.SELinux }}
{{ with .NodeConfig.AgentConfig.PauseImage }}  sandbox_image = "{{ . }}"{{ end }}
[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "{{ .NodeConfig.AgentConfig.Snapshotter }}"
{{ with .NodeConfig.DefaultRuntime }}  default_runtime_name = "{{ . }}"{{ end }}
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "{{ .NodeConfig.AgentConfig.CNIBinDir }}"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  SystemdCgroup = {{ .SystemdCgroup }}
{{ range $name, $runtime := .ExtraRuntimes }}
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes."{{ $name }}"]
  runtime_type = "{{ $runtime.RuntimeType }}"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes."{{ $name }}".options]
  BinaryName = "{{ $runtime.BinaryName }}"
{{ end }}
`

const base3 = `
# made by {{ .Program }}
version = 3
[plugins.'io.containerd.cri.v1.runtime']
  enable_selinux = {{ .NodeConfig.SELinux }}
{{ with .NodeConfig.DefaultRuntime }}
[plugins.'io.containerd.cri.v1.runtime'.containerd]
  default_runtime_name = "{{ . }}"
{{ end }}
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ["{{ .NodeConfig.AgentConfig.CNIBinDir }}"]
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  SystemdCgroup = {{ .SystemdCgroup }}
{{ range $name, $runtime := .ExtraRuntimes }}
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.'{{ $name }}']
  runtime_type = "{{ $runtime.RuntimeType }}"
{{ with $runtime.BinaryName }}
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.'{{ $name }}'.options]
  BinaryName = {{ printf "%q" . }}
  SystemdCgroup = {{ $.SystemdCgroup }}
{{ end }}
{{ end }}
`

func main() {
	version := flag.Int("version", 3, "the version of the base template")
	found := flag.String("found", "", "a runtime that was found at the start, NAME=PROGRAM")
	defaultRuntime := flag.String("default", "", "the setting default-runtime")
	flag.Parse()
	if err := render(*version, *found, *defaultRuntime, flag.Arg(0)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func render(version int, found, defaultRuntime, path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	base := base3
	if version == 2 {
		base = base2
	}
	all, err := template.New("file").Parse(string(text))
	if err != nil {
		return err
	}
	if _, err := all.New("base").Parse(base); err != nil {
		return err
	}
	values := data{
		NodeConfig: &node{
			DefaultRuntime: defaultRuntime,
			Containerd:     paths{Opt: "/tmp/opt", Root: "/tmp/root", State: "/tmp/state"},
			AgentConfig: agent{
				Snapshotter: "overlayfs",
				PauseImage:  "registry.example/pause:1",
				CNIBinDir:   "/opt/cni/bin",
				CNIConfDir:  "/etc/cni/net.d",
			},
		},
		SystemdCgroup:         true,
		PrivateRegistryConfig: &registry{Mirrors: map[string]mirror{"docker.io": {Endpoints: []string{"https://a.example", "https://b.example"}}}},
		ExtraRuntimes:         map[string]runtime{"crun": {RuntimeType: "io.containerd.runc.v2", BinaryName: "/usr/bin/crun"}},
		Program:               "k3s",
	}
	if name, program, ok := strings.Cut(found, "="); ok {
		values.ExtraRuntimes[name] = runtime{RuntimeType: "io.containerd.runc.v2", BinaryName: program}
	}
	return all.Execute(os.Stdout, values)
}
