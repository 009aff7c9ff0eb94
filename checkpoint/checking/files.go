package checking

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/golowbit/lowbit/internal/disk"
	"github.com/golowbit/lowbit/internal/gguf"
	"github.com/golowbit/lowbit/safetensors"
)

// sumsFile lists checksums as sha256sum writes them.
const sumsFile = "SHA256SUMS"

// files looks at the files by themselves.
func (c *checker) files(ctx context.Context, path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		for _, part := range gguf.Parts(path) {
			c.container(part)
		}
		return nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	shards := map[string]*safetensors.File{}
	defer func() {
		for _, f := range shards {
			_ = f.Close()
		}
	}()
	for _, e := range entries {
		name := filepath.Join(path, e.Name())
		st, err := os.Stat(name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			c.add(Finding{Kind: KindHeader, File: name, Text: "a link to nothing"})
			continue
		case err != nil:
			return err
		case !st.Mode().IsRegular():
			continue
		}
		if err := c.blob(ctx, name); err != nil {
			return err
		}
		switch filepath.Ext(name) {
		case ".safetensors":
			c.r.Files++
			f, err := safetensors.Open(name)
			if err != nil {
				c.add(Finding{Kind: KindHeader, Text: err.Error()})
				continue
			}
			shards[e.Name()] = f
		case ".gguf":
			c.container(name)
		}
	}
	c.index(path, shards)
	return c.sums(ctx, path)
}

// container looks at a GGUF file: its header, and what lies between its tensors.
func (c *checker) container(path string) {
	c.r.Files++
	f, err := gguf.Open(path)
	if err != nil {
		if errors.Is(err, gguf.ErrFormat) || !errors.Is(err, fs.ErrNotExist) {
			c.add(Finding{Kind: KindHeader, Text: err.Error()})
		}
		return
	}
	defer f.Close()
	st, err := os.Stat(path)
	if err != nil {
		c.add(Finding{Kind: KindHeader, Text: err.Error()})
		return
	}
	r, err := os.Open(path)
	if err != nil {
		c.add(Finding{Kind: KindHeader, Text: err.Error()})
		return
	}
	defer r.Close()
	tensors := f.Tensors()
	for i, t := range tensors {
		end := f.DataOffset() + t.Offset + t.Bytes()
		next := st.Size()
		if i+1 < len(tensors) {
			next = f.DataOffset() + tensors[i+1].Offset
		}
		gap := make([]byte, min(next-end, 1<<16))
		if _, err := r.ReadAt(gap, end); err != nil {
			c.add(Finding{Kind: KindHeader, File: path, Tensor: t.Name, Text: err.Error()})
			return
		}
		if at := slices.IndexFunc(gap, func(b byte) bool { return b != 0 }); at >= 0 {
			c.add(Finding{
				Kind: KindPacking, File: path, Tensor: t.Name, Text: fmt.Sprintf("byte %d, behind the tensor's data", end+int64(at)),
				Expected: "0 (alignment)", Found: fmt.Sprintf("%#02x", gap[at]),
			})
		} else if i+1 == len(tensors) && next-end >= 1<<16 {
			c.add(Finding{Kind: KindHeader, Warning: true, File: path, Text: fmt.Sprintf("%d bytes behind the last tensor", next-end)})
		}
	}
}

// index compares shards with the index that names them.
func (c *checker) index(dir string, shards map[string]*safetensors.File) {
	path := filepath.Join(dir, safetensors.IndexName)
	data, err := disk.ReadText(path, 1<<30)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var index struct {
		Metadata struct {
			TotalSize float64 `json:"total_size"`
		} `json:"metadata"`
		WeightMap map[string]string `json:"weight_map"`
	}
	if err == nil {
		err = json.Unmarshal(data, &index)
	}
	if err != nil {
		c.add(Finding{Kind: KindIndex, File: path, Text: err.Error()})
		return
	}
	if _, err := os.Stat(filepath.Join(dir, safetensors.SingleName)); err == nil {
		c.add(Finding{Kind: KindIndex, Warning: true, File: path, Text: "not used: there is a " + safetensors.SingleName})
		return
	}
	where := map[string][]string{}
	var sum int64
	named := map[string]bool{}
	for _, shard := range index.WeightMap {
		named[shard] = true
	}
	for _, shard := range slices.Sorted(maps.Keys(shards)) {
		f := shards[shard]
		if !named[shard] {
			continue
		}
		for _, name := range f.Names() {
			where[name] = append(where[name], shard)
			t, _ := f.Info(name)
			sum += t.Size()
			if _, ok := index.WeightMap[name]; !ok {
				c.add(Finding{Kind: KindIndex, File: filepath.Join(dir, shard), Tensor: name, Expected: "an entry in " + safetensors.IndexName, Found: "none"})
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(index.WeightMap)) {
		shard := index.WeightMap[name]
		f := Finding{Kind: KindIndex, File: path, Tensor: name, Expected: "in " + shard}
		_, there := shards[shard]
		_, statErr := os.Stat(filepath.Join(dir, shard))
		switch got := where[name]; {
		case statErr != nil:
			f.Found = "no such file"
		case !there:
			continue // a broken shard, which was said
		case len(got) == 0:
			f.Found = "no such tensor"
		case len(got) > 1:
			f.Found = "in " + strings.Join(got, " and ")
		case got[0] != shard:
			f.Found = "in " + got[0]
		default:
			continue
		}
		c.add(f)
	}
	if total := int64(index.Metadata.TotalSize); total != 0 && total != sum && len(named) == len(shards) {
		c.add(Finding{Kind: KindIndex, Warning: true, File: path, Text: "total_size (published ones differ in what they count)", Expected: fmt.Sprint(sum), Found: fmt.Sprint(total)})
	}
}

// blob compares a file in the hub's cache with the checksum that it is named by.
func (c *checker) blob(ctx context.Context, path string) error {
	link, err := os.Readlink(path)
	if err != nil || filepath.Base(filepath.Dir(link)) != "blobs" {
		return nil // no file of a cache
	}
	want := filepath.Base(link)
	if _, err := hex.DecodeString(want); err != nil {
		return nil
	}
	var h hash.Hash
	switch len(want) {
	case 2 * sha256.Size:
		h = sha256.New()
	case 2 * sha1.Size: // git's name of a blob
		st, err := os.Stat(path)
		if err != nil {
			return err
		}
		h = sha1.New()
		fmt.Fprintf(h, "blob %d\x00", st.Size())
	default:
		return nil
	}
	return c.sum(ctx, path, want, h)
}

// sums compares files with those of a list of checksums.
func (c *checker) sums(ctx context.Context, dir string) error {
	path := filepath.Join(dir, sumsFile)
	data, err := disk.ReadFile(path, 1<<20)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" {
			continue
		}
		want, name, ok := strings.Cut(line, " ")
		name = strings.TrimLeft(name, " *")
		if !ok || len(want) != 2*sha256.Size || !filepath.IsLocal(name) {
			c.add(Finding{Kind: KindChecksum, File: path, Text: fmt.Sprintf("line %d", n), Expected: "a checksum and a name", Found: fmt.Sprintf("%q", line)})
			continue
		}
		file := filepath.Join(dir, name)
		if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
			c.add(Finding{Kind: KindChecksum, File: file, Expected: "the file of line " + fmt.Sprint(n) + " of " + sumsFile, Found: "no such file"})
			continue
		}
		if err := c.sum(ctx, file, strings.ToLower(want), sha256.New()); err != nil {
			return err
		}
	}
	return lines.Err()
}

// sum compares a file with its checksum.
func (c *checker) sum(ctx context.Context, path, want string, h hash.Hash) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		if _, err := io.CopyN(h, f, 16<<20); err == io.EOF {
			break
		} else if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	c.r.Checksums++
	if got := hex.EncodeToString(h.Sum(nil)); got != want {
		c.add(Finding{Kind: KindChecksum, File: path, Expected: want, Found: got})
	}
	return nil
}
