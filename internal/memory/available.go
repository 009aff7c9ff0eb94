// Package memory knows how much memory there is and holds a program to its share.
package memory

import (
	"bufio"
	"bytes"
	"io/fs"
	"math"
	"os"
	"path"
	"strconv"
	"strings"
)

// Available is how much memory this process may use: that of the machine, or
// of the control groups it is in if they allow less. 0 means unknown.
func Available() int64 { return available(os.DirFS("/"), machine()) }

// available looks at Linux's control groups, of both versions, in a file system.
func available(root fs.FS, machine int64) int64 {
	least := machine
	if n := total(root); n > 0 && (least == 0 || n < least) {
		least = n
	}
	if n := groupLimit(root); n > 0 && (least == 0 || n < least) {
		least = n
	}
	return least
}

// total is what /proc/meminfo says the machine has, or 0.
func total(root fs.FS) int64 {
	data, _ := fs.ReadFile(root, "proc/meminfo")
	return kilobytes(data, "MemTotal:")
}

// kilobytes is a line of such a file in bytes, or 0.
func kilobytes(data []byte, name string) int64 {
	for line := range bytes.Lines(data) {
		f := strings.Fields(string(line))
		if len(f) == 3 && f[0] == name && f[2] == "kB" {
			if n, err := strconv.ParseInt(f[1], 10, 64); err == nil && n < math.MaxInt64>>10 {
				return n << 10
			}
		}
	}
	return 0
}

// Peak is the most memory that this process has had so far, or 0 if that is unknown.
func Peak() int64 { return max(highWater(os.DirFS("/")), used()) }

// highWater is what /proc/self/status says of it.
func highWater(root fs.FS) int64 {
	data, _ := fs.ReadFile(root, "proc/self/status")
	return kilobytes(data, "VmHWM:")
}

// groupLimit is the least limit of the groups that the process is in, or 0.
func groupLimit(root fs.FS) int64 {
	data, _ := fs.ReadFile(root, "proc/self/cgroup")
	least := int64(0)
	lower := func(dir string, names ...string) {
		for _, name := range names {
			if n := limitIn(root, path.Join(dir, name)); n > 0 && (least == 0 || n < least) {
				least = n
			}
		}
	}
	for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
		// hierarchy:controllers:path; of version 2 "0::path"
		f := strings.SplitN(lines.Text(), ":", 3)
		if len(f) != 3 {
			continue
		}
		for dir := path.Clean("/" + f[2]); ; dir = path.Dir(dir) {
			switch {
			case f[0] == "0" && f[1] == "":
				lower(path.Join("sys/fs/cgroup", dir), "memory.max", "memory.high")
			case hasController(f[1]):
				lower(path.Join("sys/fs/cgroup/memory", dir), "memory.limit_in_bytes")
			}
			// Inside a container the path may be that outside; its own group is
			// then what is mounted, which is the last that is looked at.
			if dir == "/" {
				break
			}
		}
	}
	return least
}

func hasController(list string) bool {
	for name := range strings.SplitSeq(list, ",") {
		if name == "memory" {
			return true
		}
	}
	return false
}

// limitIn is the number in a file; 0 for "max" and for what version 1 has
// where there is no limit.
func limitIn(root fs.FS, name string) int64 {
	data, err := fs.ReadFile(root, name)
	if err != nil {
		return 0
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	if err != nil || n <= 0 || n >= 1<<62 {
		return 0
	}
	return n
}
