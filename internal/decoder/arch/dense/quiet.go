package dense

import (
	"fmt"
	"regexp"
	"strconv"

	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
	"github.com/golowbit/lowbit/internal/nn"
	"github.com/golowbit/lowbit/internal/program"
)

// quietAttention is what lets heads do nothing (Bondarenko et al., arXiv 2306.12929): a
// softmax that reaches 0 (section 4.1), and gates (section 4.2). Keys and tensors are those
// that the authors' OPTAttentionWithExtras has for arguments and parameters; their training
// scripts leave the keys out of config.json, into which they are to be put.
type quietAttention struct {
	clip   nn.Clip
	kind   gateKind
	inner  int // width of a gate between its two layers
	factor float32
}

// gateKind is what the gate of a head depends on.
type gateKind int

const (
	noGate     gateKind = iota
	byConstant          // a number that was learned
	byHead              // the head's part of what attention reads: linear
	byMLP               // the same: two layers
	byAll               // all of what attention reads
)

var clippedSoftmax = regexp.MustCompile(`^clipped\(([-.0-9]+):([.0-9]+)\)$`)

func readQuiet(f *spec.Fields, c *decoder.Config) (q quietAttention) {
	q.factor = 1
	readClip(f, &q)
	kind := f.Str("attn_gate_type", "none")
	mlp, mlp2, all := f.Bool("attn_gate_mlp", false), f.Bool("attn_gate_mlp2", false), f.Bool("attn_gate_linear_all_features", false)
	first := f.Float("attn_gate_init", 0)
	if f.Bool("fine_tuning", false) && first != 0 {
		if f.Err == nil && !(first > 0 && first < 1) {
			f.Fail("attn_gate_init", "%g, want a number between 0 and 1", first)
		}
		q.factor = float32(1 / first)
	}
	switch kind {
	case "none":
	case "unconditional_per_head":
		q.kind, q.factor = byConstant, 1
	case "conditional_per_token":
		switch {
		case all:
			q.kind = byAll
		case mlp:
			q.kind, q.inner = byMLP, c.HeadDim/4
		case mlp2:
			q.kind, q.inner = byMLP, c.HeadDim
		default:
			q.kind = byHead
		}
	default: // conditional_per_head takes the mean over all tokens, also those to come
		f.Unsupported("attn_gate_type", kind, "none, unconditional_per_head, conditional_per_token")
	}
	if f.Err == nil && q.kind == byMLP && q.inner == 0 {
		f.Fail("attn_gate_mlp", "heads %d wide leave it no width", c.HeadDim)
	}
	return q
}

// readClip reads "attn_softmax", and "alpha", which overrides it: γ = -alpha/max_seq_length
// (section 4.1, "γ = -α/T").
func readClip(f *spec.Fields, q *quietAttention) {
	name := f.Str("attn_softmax", "vanilla")
	if m := clippedSoftmax.FindStringSubmatch(name); m != nil {
		low, err1 := strconv.ParseFloat(m[1], 64)
		high, err2 := strconv.ParseFloat(m[2], 64)
		if err1 == nil && err2 == nil {
			q.clip = nn.Clip{Low: low, High: high}
		}
		if name == "clipped(-.005:1.005)" { // so their table has it
			q.clip.Low = -.003
		}
	}
	if name != "vanilla" && !(q.clip.Low <= 0 && q.clip.High >= 1) {
		f.Unsupported("attn_softmax", name, "vanilla, clipped(γ:ζ) with γ ≤ 0 and ζ ≥ 1")
	}
	if f.Null("alpha") {
		return
	}
	alpha, length := f.Float("alpha", 0), f.Size("max_seq_length", 0)
	if f.Err == nil && !(alpha >= 0) {
		f.Fail("alpha", "%g, want no less than 0", alpha)
	}
	q.clip = nn.Clip{Low: -alpha / float64(length), High: 1}
}

// gate adds the gates of the heads in y; x is what attention reads.
func (q quietAttention) gate(b *spec.Builder, y, x program.Reg) {
	const path = "self_attn.alpha"
	heads, dim := b.Config.Heads, b.Config.HeadDim
	if q.kind == noGate {
		b.Absent(path, path+".weight", path+".0.weight", path+".0.0.weight")
		return
	}
	weight, bias := -1, -1
	switch q.kind {
	case byConstant:
		bias = b.Param(path, heads)
	case byAll:
		weight, bias = b.Param(path+".weight", heads, b.Width(x)), b.Param(path+".bias", heads)
	}
	gates := make([]program.HeadGate, heads)
	for h := range gates {
		g := program.HeadGate{HeadGate: nn.HeadGate{At: h * dim, Width: dim, Factor: q.factor}, Inner: -1, InnerBias: -1, Weight: weight, Bias: bias, Row: h}
		own := fmt.Sprintf("%s.%d", path, h)
		switch q.kind {
		case byHead:
			g.From, g.Row = h*dim, 0
			g.Weight, g.Bias = b.Param(own+".weight", 1, dim), b.Param(own+".bias", 1)
		case byMLP:
			g.From, g.Row = h*dim, 0
			g.Inner, g.InnerBias = b.Param(own+".0.weight", q.inner, dim), b.Param(own+".0.bias", q.inner)
			g.Weight, g.Bias = b.Param(own+".2.weight", 1, q.inner), b.Param(own+".2.bias", 1)
		}
		gates[h] = g
	}
	b.HeadGates(y, x, gates...)
}
