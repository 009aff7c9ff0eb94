package mlx

import (
	"encoding/json"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/golowbit/lowbit/checkpoint/internal/parts"
	"github.com/golowbit/lowbit/checkpoint/layout"
)

// mlx-lm holds the experts of a block in one tensor, [experts, out, …], where
// others have a tensor for each:
//
//	B.switch_mlp.P.S    B.experts.N.P.S
//
// with the block B, the projection P and S one of weight, scales, biases and bias.
// Some loaders put single experts together, but only their weights.

var (
	stackedName = regexp.MustCompile(`^(.+\.)switch_mlp\.(\w+)\.(weight|scales|biases|bias)$`)
	expertName  = regexp.MustCompile(`^(.+\.)experts\.(\d+)\.(\w+)((?:\.(?:weight|scales|biases|bias))?)$`)
)

// numbered are the projections of blocks that have numbers for names at Hugging
// Face, as mlx-lm calls them.
var numbered = map[string]string{"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}

// usesNumbers tells whether a block has them.
func usesNumbers(block string) bool { return strings.HasSuffix(block, ".block_sparse_moe.") }

// stackedTypes are the model types whose loaders take experts that are in one tensor
// already. Others get them one by one.
var stackedTypes = []string{"deepseek_v2", "deepseek_v3", "ernie4_5_moe", "glm4_moe", "minimax_m2", "mixtral", "olmoe", "phimoe", "qwen2_moe", "qwen3_moe"}

var (
	_ layout.Stacker   = Format{}
	_ layout.Unstacker = Format{}
)

// Stacks puts the experts of a projection into one tensor where mlx-lm has it so.
// It takes names of tensors, and of layers.
func (Format) Stacks(config json.RawMessage) func(name string) (stack string, at int, ok bool) {
	var c struct {
		Type string `json:"model_type"`
	}
	if json.Unmarshal(config, &c) != nil || !slices.Contains(stackedTypes, c.Type) {
		return nil
	}
	return func(name string) (string, int, bool) {
		m := expertName.FindStringSubmatch(name)
		if m == nil {
			return "", 0, false
		}
		at, err := strconv.Atoi(m[2])
		if err != nil {
			return "", 0, false
		}
		block, own := m[1], m[3]
		if usesNumbers(block) {
			for theirs, number := range numbered {
				if own == number {
					own = theirs
				}
			}
		}
		return block + "switch_mlp." + own + m[4], at, true
	}
}

// Unstack shows experts that are in one tensor one by one, under Hugging Face's
// names.
func (Format) Unstack(src layout.Source) (layout.Source, error) {
	inside := map[string][]parts.Place{}
	for _, name := range src.Names() {
		m := stackedName.FindStringSubmatch(name)
		spec, _ := src.Spec(name)
		dims := 3
		if m != nil && m[3] == "bias" {
			dims = 2
		}
		if m == nil || len(spec.Shape) != dims {
			continue
		}
		block, own := m[1], m[2]
		if usesNumbers(block) && numbered[own] != "" {
			own = numbered[own]
		}
		if _, err := layout.Dimensions(src, spec, dims); err != nil {
			return nil, err
		}
		for n := range spec.Shape[0] {
			p := parts.Place{Spec: layout.Spec{Name: block + "experts." + strconv.Itoa(n) + "." + own + "." + m[3], DType: spec.DType, Shape: spec.Shape[1:]}, Stack: name}
			p.Off = int64(n) * p.Bytes()
			inside[name] = append(inside[name], p)
		}
	}
	if len(inside) == 0 {
		return src, nil
	}
	return parts.NewInside(src, inside)
}
