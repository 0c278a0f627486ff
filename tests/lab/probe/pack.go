package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"runtime"
)

// The two images: one binary, what it does by default, and the environment. CUDA's images carry NVIDIA_VISIBLE_DEVICES=all.
var images = []struct {
	name       string
	entrypoint []string
	cmd        []string
	env        []string
}{
	{"registry.example/probe:1", []string{"/probe"}, []string{"sleep"},
		[]string{"PATH=/", "NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=compute,utility"}},
	{"registry.example/pause:1", []string{"/probe", "pause"}, nil, []string{"PATH=/"}},
}

// pack writes the running executable as a docker-archive: one layer, one configuration for each image, and manifest.json.
func pack(to string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	binary, err := os.ReadFile(self)
	if err != nil {
		return err
	}
	layer, err := archive([]file{{"probe", 0o755, binary}})
	if err != nil {
		return err
	}
	files := []file{{"layer.tar", 0o644, layer}}
	var manifest []map[string]any
	for _, image := range images {
		config, err := json.Marshal(map[string]any{
			"architecture": runtime.GOARCH,
			"os":           "linux",
			"config":       map[string]any{"Entrypoint": image.entrypoint, "Cmd": image.cmd, "Env": image.env},
			"rootfs":       map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + digest(layer)}},
		})
		if err != nil {
			return err
		}
		name := digest(config) + ".json"
		files = append(files, file{name, 0o644, config})
		manifest = append(manifest, map[string]any{
			"Config": name, "RepoTags": []string{image.name}, "Layers": []string{"layer.tar"},
		})
	}
	text, err := json.Marshal(manifest)
	if err != nil {
		return err
	}
	whole, err := archive(append(files, file{"manifest.json", 0o644, text}))
	if err != nil {
		return err
	}
	return os.WriteFile(to, whole, 0o644)
}

type file struct {
	name    string
	mode    int64
	content []byte
}

func archive(files []file) ([]byte, error) {
	var buffer bytes.Buffer
	writer := tar.NewWriter(&buffer)
	for _, file := range files {
		header := &tar.Header{Name: file.name, Mode: file.mode, Size: int64(len(file.content)), Typeflag: tar.TypeReg}
		if err := writer.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := writer.Write(file.content); err != nil {
			return nil, err
		}
	}
	err := writer.Close()
	return buffer.Bytes(), err
}

func digest(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}
