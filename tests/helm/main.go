// Renders and lints the chart with Helm's own packages, so that neither tests nor deployments/render.sh need a helm in PATH.
//
//	packhorse-helm lint CHART [-f VALUES]...
//	packhorse-helm template CHART [-f VALUES]... [--set KEY=VALUE]... [--namespace N] [--kube-version V] [--show-only FILE]...
//	packhorse-helm batch CHART < jobs.json > results.json
//	packhorse-helm k3s CHART VALUES, and packhorse-helm unpack MANIFEST for what it wrote
//
// `template` writes what `helm template` writes, in the order of installation and without the names of the sources. `batch` renders once per job of a JSON array, in one
// process, because a test looks at hundreds of renderings.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/releaseutil"
	"helm.sh/helm/v3/pkg/strvals"
	"sigs.k8s.io/yaml"
)

const (
	releaseName = "packhorse"
	// Part of Packhorse's contract.
	namespace = "packhorse-system"
	// The cluster that is rendered for where nothing else is said: the release that tests/lab runs.
	kubernetes = "v1.36.3"
)

// job is one rendering.
type job struct {
	// Values of the user, over those of the chart.
	Values map[string]any `json:"values"`
	// Namespace of the release; empty: Packhorse's.
	Namespace string `json:"namespace"`
	// KubeVersion is the cluster's, for example v1.30.4+k3s1; empty: that of tests/lab.
	KubeVersion string `json:"kubeVersion"`
}

// result is what came of a job: either an error, or the rest.
type result struct {
	Error string `json:"error,omitempty"`
	// Files is the text of each template that rendered to something, by its name below templates/.
	Files map[string]string `json:"files,omitempty"`
	// Objects of all files, in the order of installation.
	Objects []any `json:"objects,omitempty"`
	// Notes is what Helm shows after an installation.
	Notes string `json:"notes,omitempty"`
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 2 {
		return fmt.Errorf("usage: packhorse-helm lint|template|batch|k3s CHART [flags]")
	}
	folder, flags := args[1], args[2:]
	switch args[0] {
	case "lint":
		return lintChart(folder, flags)
	case "template":
		return template(folder, flags)
	case "batch":
		return batch(folder)
	case "k3s":
		return k3s(folder, flags)
	case "unpack":
		return unpack(folder)
	}
	return fmt.Errorf("%q: write lint, template, batch, k3s or unpack", args[0])
}

// read takes the flags apart: a job, and the files to show.
func read(flags []string) (job, []string, error) {
	values, show, one := map[string]any{}, []string{}, job{}
	for len(flags) > 0 {
		if len(flags) < 2 {
			return one, show, fmt.Errorf("%s: a value is missing", flags[0])
		}
		flag, value := flags[0], flags[1]
		flags = flags[2:]
		switch flag {
		case "-f", "--values":
			file, err := chartutil.ReadValuesFile(value)
			if err != nil {
				return one, show, fmt.Errorf("%s: %w", value, err)
			}
			// As Helm does: a later file overrules an earlier one.
			values = chartutil.MergeTables(file, values)
		case "--set":
			if err := strvals.ParseInto(value, values); err != nil {
				return one, show, fmt.Errorf("--set %s: %w", value, err)
			}
		case "--namespace":
			one.Namespace = value
		case "--kube-version":
			one.KubeVersion = value
		case "--show-only":
			show = append(show, value)
		default:
			return one, show, fmt.Errorf("%s: no such flag", flag)
		}
	}
	one.Values = values
	return one, show, nil
}

func lintChart(folder string, flags []string) error {
	one, _, err := read(flags)
	if err != nil {
		return err
	}
	version, err := chartutil.ParseKubeVersion(kubernetes)
	if err != nil {
		return err
	}
	findings := lint.AllWithKubeVersion(folder, one.Values, namespace, version).Messages
	for _, finding := range findings {
		fmt.Println(finding)
	}
	if len(findings) > 0 {
		return fmt.Errorf("%d findings", len(findings))
	}
	return nil
}

func template(folder string, flags []string) error {
	one, show, err := read(flags)
	if err != nil {
		return err
	}
	loaded, err := loader.LoadDir(folder)
	if err != nil {
		return err
	}
	rendered, _, err := render(loaded, one)
	if err != nil {
		return err
	}
	// No mark before the first: whoever writes a comment above it begins no empty document.
	between := ""
	for _, manifest := range rendered {
		if len(show) == 0 || slices.Contains(show, below(manifest.Name)) {
			fmt.Printf("%s%s\n", between, strings.TrimSpace(manifest.Content))
			between = "---\n"
		}
	}
	return nil
}

func batch(folder string) error {
	var jobs []job
	if err := json.NewDecoder(os.Stdin).Decode(&jobs); err != nil {
		return fmt.Errorf("the jobs: %w", err)
	}
	results := make([]result, len(jobs))
	for at, one := range jobs {
		// Rendering changes the chart's values.
		loaded, err := loader.LoadDir(folder)
		if err != nil {
			return err
		}
		results[at] = attempt(loaded, one)
	}
	return json.NewEncoder(os.Stdout).Encode(results)
}

func attempt(loaded *chart.Chart, one job) result {
	manifests, notes, err := render(loaded, one)
	if err != nil {
		return result{Error: err.Error()}
	}
	done := result{Files: map[string]string{}, Objects: []any{}, Notes: notes}
	for _, manifest := range manifests {
		var object any
		// Strict: a key that is there twice is a mistake of the template.
		if err := yaml.UnmarshalStrict([]byte(manifest.Content), &object); err != nil {
			return result{Error: fmt.Sprintf("%s: %v\n%s", manifest.Name, err, manifest.Content)}
		}
		name := below(manifest.Name)
		done.Files[name] += "---\n" + strings.TrimSpace(manifest.Content) + "\n"
		done.Objects = append(done.Objects, object)
	}
	return done
}

// render gives the manifests in the order of installation, and the notes.
func render(loaded *chart.Chart, one job) ([]releaseutil.Manifest, string, error) {
	if one.Namespace == "" {
		one.Namespace = namespace
	}
	if one.KubeVersion == "" {
		one.KubeVersion = kubernetes
	}
	version, err := chartutil.ParseKubeVersion(one.KubeVersion)
	if err != nil {
		return nil, "", fmt.Errorf("--kube-version %s: %w", one.KubeVersion, err)
	}
	// As on a real cluster, whose answer Helm takes as it is: parsed, the version would lose what distributions append.
	version.Version = one.KubeVersion
	capabilities := chartutil.DefaultCapabilities.Copy()
	capabilities.KubeVersion = *version
	if constraint := loaded.Metadata.KubeVersion; !chartutil.IsCompatibleRange(constraint, capabilities.KubeVersion.Version) {
		return nil, "", fmt.Errorf("Kubernetes %s is not %s", capabilities.KubeVersion.Version, constraint)
	}
	release := chartutil.ReleaseOptions{Name: releaseName, Namespace: one.Namespace, Revision: 1, IsInstall: true}
	values, err := chartutil.ToRenderValues(loaded, one.Values, release, capabilities)
	if err != nil {
		return nil, "", err
	}
	files, err := engine.Render(loaded, values)
	if err != nil {
		return nil, "", err
	}
	notes := ""
	for name, text := range files {
		if path.Base(name) == "NOTES.txt" {
			notes = text
			delete(files, name)
		}
	}
	_, manifests, err := releaseutil.SortManifests(files, capabilities.APIVersions, releaseutil.InstallOrder)
	return manifests, notes, err
}

// below is a template's name below templates/.
func below(name string) string {
	_, after, _ := strings.Cut(name, "/templates/")
	return after
}
