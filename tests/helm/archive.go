package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"sigs.k8s.io/yaml"
)

// k3s writes a HelmChart object: what k3s and RKE2 install when they find it. The chart itself is in it, so that nothing has to be
// fetched. The same chart always gives the same bytes.
func k3s(folder string, flags []string) error {
	if len(flags) != 1 {
		return fmt.Errorf("usage: packhorse-helm k3s CHART VALUES")
	}
	values, err := os.ReadFile(flags[0])
	if err != nil {
		return err
	}
	archive, err := pack(folder)
	if err != nil {
		return err
	}
	fmt.Print(`apiVersion: helm.cattle.io/v1
kind: HelmChart
metadata:
  name: packhorse
  namespace: kube-system
spec:
  targetNamespace: packhorse-system
  createNamespace: true
  valuesContent: |
`)
	for line := range strings.Lines(string(values)) {
		if strings.TrimSpace(line) != "" {
			line = "    " + line
		}
		fmt.Print(line)
	}
	fmt.Printf("  chartContent: %s\n", base64.StdEncoding.EncodeToString(archive))
	return nil
}

func pack(folder string) ([]byte, error) {
	loaded, err := loader.LoadDir(folder)
	if err != nil {
		return nil, err
	}
	files := slices.Clone(loaded.Raw)
	slices.SortFunc(files, func(a, b *chart.File) int { return strings.Compare(a.Name, b.Name) })
	var archive bytes.Buffer
	packed := gzip.NewWriter(&archive)
	folders := tar.NewWriter(packed)
	for _, file := range files {
		header := tar.Header{Name: "packhorse/" + file.Name, Mode: 0o644, Size: int64(len(file.Data))}
		if err := folders.WriteHeader(&header); err != nil {
			return nil, err
		}
		if _, err := folders.Write(file.Data); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(folders.Close(), packed.Close()); err != nil {
		return nil, err
	}
	return archive.Bytes(), nil
}

// unpack writes the files in the chart of a HelmChart object, as a JSON object of texts by name. Compression may differ between
// versions of Go; the files may not.
func unpack(manifest string) error {
	text, err := os.ReadFile(manifest)
	if err != nil {
		return err
	}
	var object struct {
		Spec struct {
			ChartContent []byte `json:"chartContent"`
		} `json:"spec"`
	}
	if err := yaml.Unmarshal(text, &object); err != nil {
		return err
	}
	packed, err := gzip.NewReader(bytes.NewReader(object.Spec.ChartContent))
	if err != nil {
		return err
	}
	files := map[string]string{}
	for folders := tar.NewReader(packed); ; {
		header, err := folders.Next()
		if errors.Is(err, io.EOF) {
			return json.NewEncoder(os.Stdout).Encode(files)
		}
		if err != nil {
			return err
		}
		content, err := io.ReadAll(folders)
		if err != nil {
			return err
		}
		files[strings.TrimPrefix(header.Name, "packhorse/")] = string(content)
	}
}
