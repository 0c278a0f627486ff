// probe is what runs in the containers of the cluster tests on a real kubelet: it says what it was given and then behaves as its
// arguments ask. tests/cluster/node builds it, packs it as an image and reads what it says.
//
//	probe pause               the sandbox container: silent until SIGTERM
//	probe pack FILE           writes itself as a docker-archive with the images below
//	probe pack-folder NAME ENTRYPOINT FOLDER FILE
//	                          writes a folder as a docker-archive with an image of that name
//	probe sleep               says what it sees, ends with 0 at SIGTERM
//	probe exit STATUS         says what it sees, ends at once
//	probe after MS STATUS     says what it sees, ends after so many milliseconds, or with 0 at SIGTERM
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	arguments := append(os.Args[1:], "", "", "", "", "")
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	switch arguments[0] {
	case "pause":
		<-stop
	case "pack":
		must(pack(arguments[1]))
	case "pack-folder":
		must(packFolder(arguments[1], arguments[2], arguments[3], arguments[4]))
	case "sleep":
		seen := look()
		must(say(seen))
		<-stop
		must(sayEnd(seen))
	case "exit":
		seen := look()
		must(say(seen))
		must(sayEnd(seen))
		os.Exit(number(arguments[1]))
	case "after":
		seen := look()
		must(say(seen))
		status := 0
		select {
		case <-stop:
		case <-time.After(time.Duration(number(arguments[1])) * time.Millisecond):
			status = number(arguments[2])
		}
		must(sayEnd(seen))
		os.Exit(status)
	default:
		fmt.Fprintf(os.Stderr, "probe: no command %q\n", arguments[0])
		os.Exit(2)
	}
}

// sight is one start of one container.
type sight struct {
	// At is the time in nanoseconds since 1970.
	At int64 `json:"at"`
	// Env is the whole environment.
	Env map[string]string `json:"env"`
	// Devices are the character devices under /dev that not every container has: path to "major:minor".
	Devices map[string]string `json:"devices"`
	// Mounts are the entries of NVIDIA's folder for devices that are given as volume mounts.
	Mounts []string `json:"mounts"`
}

// everywhere are the character devices that the runtime specification gives to every container, by device number.
var everywhere = map[string]bool{
	"1:3": true, "1:5": true, "1:7": true, "1:8": true, "1:9": true, "5:0": true, "5:1": true, "5:2": true,
}

func look() sight {
	seen := sight{At: time.Now().UnixNano(), Env: map[string]string{}, Devices: map[string]string{}, Mounts: []string{}}
	for _, entry := range os.Environ() {
		name, value, _ := strings.Cut(entry, "=")
		seen.Env[name] = value
	}
	// A folder that cannot be read holds no device that could be used.
	_ = filepath.WalkDir("/dev", func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.Type()&os.ModeCharDevice == 0 || strings.HasPrefix(path, "/dev/pts/") {
			return nil
		}
		var status syscall.Stat_t
		if err := syscall.Stat(path, &status); err != nil {
			return nil
		}
		if node := numbers(uint64(status.Rdev)); !everywhere[node] {
			seen.Devices[path] = node
		}
		return nil
	})
	entries, _ := os.ReadDir("/var/run/nvidia-container-devices")
	for _, entry := range entries {
		seen.Mounts = append(seen.Mounts, entry.Name())
	}
	return seen
}

// numbers takes a device number apart as glibc does.
func numbers(device uint64) string {
	major := (device>>8)&0xfff | (device>>32)&^uint64(0xfff)
	minor := device&0xff | (device>>12)&^uint64(0xff)
	return fmt.Sprintf("%d:%d", major, minor)
}

// say prints the sight, and keeps it in /records where the pod has that folder: logs go with their container.
func say(seen sight) error {
	line, err := json.Marshal(seen)
	if err != nil {
		return err
	}
	if err := keep(seen, "json", line); err != nil {
		return err
	}
	_, err = fmt.Println(string(line))
	return err
}

// sayEnd keeps beside the sight when it ended, in nanoseconds since 1970. A container that was killed has none.
func sayEnd(seen sight) error {
	return keep(seen, "ended", []byte(strconv.FormatInt(time.Now().UnixNano(), 10)))
}

// keep writes a file about one start to /records where the pod has that folder.
func keep(seen sight, extension string, content []byte) error {
	if records, err := os.Stat("/records"); err != nil || !records.IsDir() {
		return nil
	}
	name := fmt.Sprintf("/records/%s-%s-%d.%s", seen.Env["POD_UID"], seen.Env["CONTAINER"], seen.At, extension)
	// The reader takes whole files only.
	if err := os.WriteFile(name+".unfinished", content, 0o644); err != nil {
		return err
	}
	return os.Rename(name+".unfinished", name)
}

func number(text string) int {
	value, err := strconv.Atoi(text)
	must(err)
	return value
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(2)
	}
}
