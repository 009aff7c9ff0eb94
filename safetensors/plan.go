package safetensors

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"unicode/utf8"
)

// Options are a Writer's settings. The zero value is usable.
type Options struct {
	// MaxShardBytes is how many bytes of tensors a file may hold. A larger tensor
	// gets a file of its own. 0 means 5 GB, the usual size on model hubs; below 0
	// means one file whatever its size.
	MaxShardBytes int64
	// Metadata is written into every file's header; nil means {"format": "pt"},
	// without which transformers does not load a file.
	Metadata map[string]string
}

const defaultShardBytes = 5_000_000_000

// shard is one file of a plan.
type shard struct {
	name    string // final base name
	tensors []TensorInfo
	head    []byte // length, JSON text and padding
	size    int64  // of the whole file
}

// CheckPlan reports what NewWriter would find wrong with a plan for the folder
// dir, which need not exist.
func CheckPlan(dir string, plan []TensorInfo, opts Options) error {
	_, err := planShards(dir, plan, opts)
	return err
}

// PlanSize is how many bytes the files of a plan take, headers and all. It fails where
// NewWriter would because of the plan.
func PlanSize(plan []TensorInfo, opts Options) (int64, error) {
	shards, err := planShards("", plan, opts)
	var n int64
	for _, s := range shards {
		n += s.size
	}
	return n, err
}

// planShards checks a plan and lays it out: tensors go to files in the plan's
// order, and within a file wider types come first, which puts every tensor at a
// multiple of its element size, as the reference does.
func planShards(dir string, plan []TensorInfo, opts Options) ([]shard, error) {
	if err := checkPlan(dir, plan, opts.Metadata); err != nil {
		return nil, err
	}
	limit := opts.MaxShardBytes
	if limit == 0 {
		limit = defaultShardBytes
	}
	groups := [][]TensorInfo{nil}
	used := int64(0)
	for _, t := range plan {
		last := len(groups) - 1
		// used > 0: tensors without bytes do not fill a file.
		if limit > 0 && used > 0 && t.Size() > limit-used {
			groups = append(groups, nil)
			last, used = last+1, 0
		}
		groups[last] = append(groups[last], TensorInfo{Name: t.Name, DType: t.DType, Shape: slices.Clone(t.Shape)})
		used += t.Size()
	}
	shards := make([]shard, len(groups))
	for i, tensors := range groups {
		s := &shards[i]
		s.name = SingleName
		if len(groups) > 1 {
			s.name = fmt.Sprintf("model-%05d-of-%05d.safetensors", i+1, len(groups))
		}
		slices.SortStableFunc(tensors, func(a, b TensorInfo) int { return b.DType.Bits() - a.DType.Bits() })
		pos := int64(0)
		for j := range tensors {
			t := &tensors[j]
			t.File, t.Begin = s.name, pos
			pos += t.Size()
			t.End = pos
		}
		s.tensors = tensors
		s.head = encodeHeader(tensors, opts.Metadata)
		if n := len(s.head) - lengthSize; n > maxHeader {
			return nil, fileErrorf(ErrInvalid, filepath.Join(dir, s.name), "header too large: %d bytes, at most %d are allowed", n, maxHeader)
		}
		s.size = int64(len(s.head)) + pos
	}
	return shards, nil
}

func checkPlan(dir string, plan []TensorInfo, metadata map[string]string) error {
	seen := map[string]struct{}{}
	total := int64(0)
	for _, t := range plan {
		if _, ok := seen[t.Name]; ok {
			return tensorErrorf(ErrInvalid, dir, t.Name, "twice in the plan")
		}
		seen[t.Name] = struct{}{}
		if t.Name == metadataName || !utf8.ValidString(t.Name) {
			return tensorErrorf(ErrInvalid, dir, t.Name, "the format does not allow this name")
		}
		size, err := byteSize(t.DType, t.Shape)
		if err != nil {
			return tensorErrorf(ErrInvalid, dir, t.Name, "%v", err)
		}
		// Leave room for the header, so that a file's size cannot overflow.
		if size > math.MaxInt64-2*maxHeader-total {
			return tensorErrorf(ErrInvalid, dir, t.Name, "the plan overflows: more than 2^63 bytes")
		}
		total += size
	}
	for k, v := range metadata {
		if !utf8.ValidString(k) || !utf8.ValidString(v) {
			return fileErrorf(ErrInvalid, dir, "metadata %s: not valid UTF-8", nameText(k))
		}
	}
	return nil
}

// encodeHeader writes the header of tensors in the order of their data.
func encodeHeader(tensors []TensorInfo, metadata map[string]string) []byte {
	if metadata == nil {
		metadata = map[string]string{"format": "pt"}
	}
	var b bytes.Buffer
	b.Write(make([]byte, lengthSize))
	b.WriteByte('{')
	if len(metadata) > 0 {
		fmt.Fprintf(&b, "%s:{", quote(metadataName))
		for i, k := range slices.Sorted(maps.Keys(metadata)) {
			if i > 0 {
				b.WriteByte(',')
			}
			fmt.Fprintf(&b, "%s:%s", quote(k), quote(metadata[k]))
		}
		b.WriteByte('}')
	}
	for i, t := range tensors {
		if i > 0 || len(metadata) > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `%s:{"dtype":%s,"shape":[`, quote(t.Name), quote(string(t.DType)))
		for j, d := range t.Shape {
			if j > 0 {
				b.WriteByte(',')
			}
			fmt.Fprint(&b, d)
		}
		fmt.Fprintf(&b, `],"data_offsets":[%d,%d]}`, t.Begin, t.End)
	}
	b.WriteByte('}')
	for b.Len()%8 != 0 {
		b.WriteByte(' ')
	}
	head := b.Bytes()
	putLength(head)
	return head
}

// encodeIndex writes model.safetensors.index.json, its keys sorted.
func encodeIndex(shards []shard) []byte {
	var index struct {
		Metadata struct {
			TotalSize int64 `json:"total_size"`
		} `json:"metadata"`
		WeightMap map[string]string `json:"weight_map"`
	}
	index.WeightMap = map[string]string{}
	for _, s := range shards {
		for _, t := range s.tensors {
			index.Metadata.TotalSize += t.Size()
			index.WeightMap[t.Name] = s.name
		}
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(index); err != nil {
		panic("safetensors: strings and integers always encode")
	}
	return b.Bytes()
}

// quote is a JSON string.
func quote(s string) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil {
		panic("safetensors: strings always encode")
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
