package memory

import (
	"runtime/debug"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
)

func TestAvailable(t *testing.T) {
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	const mem = "MemTotal:       16000000 kB\nMemFree:         1000 kB\n"
	for name, c := range map[string]struct {
		files fstest.MapFS
		want  int64
	}{
		"machine":  {fstest.MapFS{"proc/meminfo": file(mem)}, 16000000 << 10},
		"nothing":  {fstest.MapFS{}, 0},
		"v2 max":   {fstest.MapFS{"proc/meminfo": file(mem), "proc/self/cgroup": file("0::/a/b\n"), "sys/fs/cgroup/a/b/memory.max": file("max\n")}, 16000000 << 10},
		"v2":       {fstest.MapFS{"proc/meminfo": file(mem), "proc/self/cgroup": file("0::/a/b\n"), "sys/fs/cgroup/a/b/memory.max": file("4294967296\n")}, 4 << 30},
		"v2 above": {fstest.MapFS{"proc/meminfo": file(mem), "proc/self/cgroup": file("0::/a/b\n"), "sys/fs/cgroup/a/b/memory.max": file("max\n"), "sys/fs/cgroup/a/memory.high": file("1073741824\n")}, 1 << 30},
		"v2 as seen in a container": {fstest.MapFS{
			"proc/meminfo": file(mem), "proc/self/cgroup": file("0::/outside/of/it\n"), "sys/fs/cgroup/memory.max": file("2147483648\n"),
		}, 2 << 30},
		"v1": {fstest.MapFS{
			"proc/meminfo":     file(mem),
			"proc/self/cgroup": file("5:cpu,cpuacct:/x\n4:memory:/x\n0::/x\n"),
			"sys/fs/cgroup/memory/x/memory.limit_in_bytes": file("3221225472\n"),
		}, 3 << 30},
		"v1 without a limit": {fstest.MapFS{
			"proc/meminfo": file(mem), "proc/self/cgroup": file("4:memory:/\n"), "sys/fs/cgroup/memory/memory.limit_in_bytes": file("9223372036854771712\n"),
		}, 16000000 << 10},
		"more than there is": {fstest.MapFS{"proc/meminfo": file(mem), "proc/self/cgroup": file("0::/\n"), "sys/fs/cgroup/memory.max": file("99999999999999\n")}, 16000000 << 10},
	} {
		require.Equal(t, c.want, available(c.files, 0), name)
	}
	require.Positive(t, Available())
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{
		"4GiB": 4 << 30, "4G": 4 << 30, "4g": 4 << 30, "1.5 GiB": 3 << 29, "2GB": 2e9, "800MiB": 800 << 20, "123": 123, "7b": 7, "1T": 1 << 40,
	} {
		n, err := ParseSize(text)
		require.NoError(t, err, text)
		require.Equal(t, want, n, text)
	}
	for _, text := range []string{"", "GiB", "4X", "-4G", "0", "1e400", "NaN", "inf", "4GiBs", "9999999999TiB"} {
		_, err := ParseSize(text)
		require.Error(t, err, text)
	}
}

func TestSize(t *testing.T) {
	require.Equal(t, "1.50 GiB", Size(3<<29))
	require.Equal(t, "12 MiB", Size(12<<20))
	require.Equal(t, "2 KiB", Size(1025))
}

func TestHold(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	release := Hold(1 << 34)
	require.EqualValues(t, 1<<34, debug.SetMemoryLimit(-1))
	inner := Hold(1 << 35) // a lower one stays
	require.EqualValues(t, 1<<34, debug.SetMemoryLimit(-1))
	inner()
	release()
	require.Equal(t, before, debug.SetMemoryLimit(-1))
}
