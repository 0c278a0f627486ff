package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
)

type image struct {
	name       string
	entrypoint []string
	cmd        []string
	env        []string
	user       string
}

// The two images: one binary, what it does by default, and the environment. CUDA's images carry NVIDIA_VISIBLE_DEVICES=all.
var images = []image{
	{name: "registry.example/probe:1", entrypoint: []string{"/probe"}, cmd: []string{"sleep"},
		env: []string{"PATH=/", "NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=compute,utility"}},
	{name: "registry.example/pause:1", entrypoint: []string{"/probe", "pause"}, env: []string{"PATH=/"}},
}

// pack writes the running executable as a docker-archive with the two images.
func pack(to string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	binary, err := os.ReadFile(self)
	if err != nil {
		return err
	}
	return write(to, []file{{"probe", 0o755, binary}}, images)
}

// packFolder writes a folder as a docker-archive with one image, whose entrypoint is a program in it.
func packFolder(name, entrypoint, folder, to string) error {
	var files []file
	err := filepath.WalkDir(folder, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		below, err := filepath.Rel(folder, path)
		files = append(files, file{below, 0o755, content})
		return err
	})
	if err != nil {
		return err
	}
	return write(to, files, []image{{name: name, entrypoint: []string{entrypoint}, user: "65532:65532"}})
}

// write writes a docker-archive: one layer, one configuration for each image, and manifest.json.
func write(to string, content []file, images []image) error {
	layer, err := archive(content)
	if err != nil {
		return err
	}
	files := []file{{"layer.tar", 0o644, layer}}
	var manifest []map[string]any
	for _, image := range images {
		config, err := json.Marshal(map[string]any{
			"architecture": runtime.GOARCH,
			"os":           "linux",
			"config": map[string]any{
				"Entrypoint": image.entrypoint, "Cmd": image.cmd, "Env": image.env, "User": image.user,
			},
			"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + digest(layer)}},
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
