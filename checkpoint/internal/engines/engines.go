// Package engines is the table of which engine loads what, and what follows
// from it for the layers of a model.
package engines

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/golowbit/lowbit/checkpoint/internal/vllm"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/kquant"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// Notes says of every engine that the table has the format for whether it
// loads the layers. Layers that are dense matter only beside quantized ones;
// without any it judges symmetric 4 bits in groups of 128.
func Notes(format string, layers []layout.Layer) []layout.Note {
	var engines []string
	for _, r := range Table {
		if slices.Contains(r.Formats, format) && !slices.Contains(engines, r.Engine) {
			engines = append(engines, r.Engine)
		}
	}
	if !slices.ContainsFunc(layers, func(l layout.Layer) bool { return !l.Dense }) {
		layers = []layout.Layer{{Out: 1024, In: 1024, Scheme: quant.Scheme{Bits: 4, GroupSize: 128, Symmetric: true}}}
	}
	notes := make([]layout.Note, len(engines))
	for i, e := range engines {
		notes[i] = judge(e, format, layers)
	}
	return notes
}

// together is what counts of a layer's neighbours.
type together struct {
	outs  map[string]int // outputs by layer, dense ones too
	dense bool           // some layer is dense
	mixed bool           // quantized layers differ in their scheme
}

func look(layers []layout.Layer) together {
	all := together{outs: make(map[string]int, len(layers))}
	var first *layout.Layer
	for i, l := range layers {
		all.outs[l.Name] = l.Out
		switch {
		case l.Dense:
			all.dense = true
		case first == nil:
			first = &layers[i]
		case schemeOf(l) != schemeOf(*first):
			all.mixed = true
		}
	}
	return all
}

// judge is the note of one engine.
func judge(engine, format string, layers []layout.Layer) layout.Note {
	n, all := layout.Note{Engine: engine, Accepted: true}, look(layers)
	verified, quantized := true, 0
	var mixture Alike
	var sharded []layout.Layer
	for _, l := range layers {
		if l.Dense {
			continue
		}
		quantized++
		r, e := find(engine, format, l)
		reason, ok := r.verdict(l, all)
		switch {
		case !ok && n.Accepted:
			n.Accepted, n.GPU, n.Reason, n.Layer, n.Layers, n.Verified = false, false, reason, l.Name, 1, e.of(l, false, false)
		case !ok:
			n.Layers++
		case n.Accepted:
			if n.Reason == "" {
				n.Reason = reason
			}
			n.Versions, n.GPU = r.Only, n.GPU || r.GPU
			n.Verified = ""
			if verified = verified && !all.mixed && usual(l); verified {
				n.Verified = e.of(l, true, all.dense)
				verified = n.Verified != ""
			}
			mixture = max(mixture, r.Mixture)
			if r.Shard {
				sharded = append(sharded, l)
			}
		}
	}
	if !n.Accepted {
		if n.Layers == quantized && n.Layers > 1 {
			n.Layer, n.Layers = "", 0
		}
		return n
	}
	if reason, seen := mixture.refuses(layers); reason != "" {
		n = layout.Note{Engine: engine, Reason: reason}
		if seen {
			n.Verified = mixtureVersions(engine, format)
		}
		return n
	}
	warning := narrow(format, engine, layers)
	if warning != "" {
		n.Verified = ""
	}
	for _, more := range []string{warning, shards(sharded)} {
		if more != "" && n.Reason != "" {
			n.Reason += "; "
		}
		n.Reason += more
	}
	return n
}

// usual tells whether a layer's shape is of a kind that was tried: no short last
// group, and sides that are multiples of 32.
func usual(l layout.Layer) bool {
	g := l.Scheme.GroupSize
	return l.Out%32 == 0 && l.In%32 == 0 && (l.Scheme.Axis == quant.IC || g == quant.WholeLine || l.In%g == 0)
}

// index is that of the first row that speaks of the layer, -1 if none does.
func index(engine, format string, l layout.Layer) int {
	return slices.IndexFunc(Table, func(r Row) bool {
		return r.Engine == engine && slices.Contains(r.Formats, format) && r.speaksOf(l)
	})
}

// find returns the first row that speaks of the layer, and what it rests on.
func find(engine, format string, l layout.Layer) (Row, evidence) {
	i := index(engine, format, l)
	if i < 0 {
		return Row{Engine: engine, Note: "not checked with such layers"}, evidence{}
	}
	return Table[i], byRow()[i]
}

// speaksOf tells whether the row is about such layers.
func (r Row) speaksOf(l layout.Layer) bool {
	s := l.Scheme
	return (len(r.Bits) == 0 || slices.Contains(r.Bits, s.Bits)) &&
		(len(r.Groups) == 0 || slices.Contains(r.Groups, s.GroupSize)) &&
		r.Symmetry.speaksOf(s) &&
		(r.Index == AnyIndex || (r.Index == WithIndex) == l.GroupIndex)
}

// speaksOf tells whether such grids are meant.
func (y Symmetry) speaksOf(s quant.Scheme) bool {
	g, ok := s.Grid.(kquant.Grid)
	floats := ok && g.FP4()
	switch y {
	case Symmetric:
		return s.Symmetric
	case Asymmetric:
		return !s.Symmetric && !floats
	case Floats:
		return floats
	}
	return true
}

// verdict is what the row says of a layer among others.
func (r Row) verdict(l layout.Layer, all together) (reason string, loads bool) {
	note := strings.NewReplacer("{bits}", strconv.Itoa(l.Scheme.Bits), "{group}", strconv.Itoa(l.Scheme.GroupSize),
		"{out}", strconv.Itoa(l.Out), "{in}", strconv.Itoa(l.In)).Replace(r.Note)
	if !r.Loads {
		return note, false
	}
	if broken := r.Needs.broken(l, all, r.Mixture == FusedAlike); broken != "" {
		if r.Needs.Hint != "" {
			broken += "; " + r.Needs.Hint
		}
		if r.Index == WithIndex {
			broken += ", with a group index; quantize with static groups"
		}
		return broken, false
	}
	if r.HalfScale && l.DType == safetensors.BF16 && !layout.BF16Scales(l.Scheme) {
		note = strings.TrimPrefix(note+"; exact in float16, which config.json is set to; run in bfloat16 it rounds the scales", "; ")
	}
	return note, true
}

// broken says which of the needs a layer does not meet, "" if it meets them.
func (n Needs) broken(l layout.Layer, all together, fused bool) string {
	g, out, what := l.Scheme.GroupSize, l.Out, ""
	if name, members, ok := vllm.FusedWith(l.Name); ok && fused {
		sum := 0
		for _, m := range members {
			sum += all.outs[m]
		}
		if sum > out {
			out, what = sum, " of "+name[strings.LastIndexByte(name, '.')+1:]
		}
	}
	whole := g == quant.WholeLine
	switch {
	case n.GroupBy > 0 && !whole && g%n.GroupBy != 0:
		return fmt.Sprintf("needs groups that are a multiple of %d, not %d", n.GroupBy, g)
	case n.OutBy > 0 && out%n.OutBy != 0:
		return fmt.Sprintf("needs outputs that are a multiple of %d, not %d%s", n.OutBy, out, what)
	case n.InBy > 0 && l.In%n.InBy != 0:
		return fmt.Sprintf("needs inputs that are a multiple of %d, not %d", n.InBy, l.In)
	case n.GroupsIn && !whole && l.In%g != 0:
		return fmt.Sprintf("needs groups that divide the inputs: %d does not divide %d", g, l.In)
	case n.GroupsOut && !whole && out%g != 0:
		return fmt.Sprintf("needs groups that divide the outputs: %d does not divide %d%s", g, out, what)
	}
	return ""
}

// scheme is what an engine may want alike.
type scheme struct {
	bits, group int
	symmetric   bool
	dense       bool
}

func schemeOf(l layout.Layer) scheme {
	if l.Dense {
		return scheme{dense: true}
	}
	return scheme{l.Scheme.Bits, l.Scheme.GroupSize, l.Scheme.Symmetric, false}
}

// refuses says why an engine that wants its layers so refuses these, and whether
// checks see that: a dense linear among quantized ones. One layer alone is not
// a checkpoint and passes.
func (a Alike) refuses(layers []layout.Layer) (reason string, seen bool) {
	if len(layers) < 2 {
		return "", false
	}
	switch a {
	case FusedAlike:
		return unlikeFused(layers), false
	case OneScheme:
		var one *layout.Layer
		for i, l := range layers {
			switch {
			case l.Dense:
			case one == nil:
				one = &layers[i]
			case schemeOf(l) != schemeOf(*one):
				return "ignores the rules for layers that differ in bits, group size or symmetry; format compressed-tensors keeps them apart", false
			}
		}
		if name := unevenlyDense(layers); name != "" {
			return fmt.Sprintf("cannot leave a linear dense in one block and quantize it in another (%s); format compressed-tensors can", name), true
		}
	case AllOrNothing:
		if i := slices.IndexFunc(layers, func(l layout.Layer) bool { return l.Dense }); i >= 0 {
			return fmt.Sprintf("reads a linear that is left dense as quantized, without an error (%s); format gptq can leave it dense", layers[i].Name), true
		}
	}
	return "", false
}

// unlikeFused names linears that vLLM loads as one and that are not alike.
func unlikeFused(layers []layout.Layer) string {
	kinds := map[string]scheme{}
	for _, l := range layers {
		kinds[l.Name] = schemeOf(l)
	}
	for _, l := range layers {
		fused, members, ok := vllm.FusedWith(l.Name)
		if !ok {
			continue
		}
		for _, m := range members {
			if k, ok := kinds[m]; !ok || k != schemeOf(l) {
				return fmt.Sprintf("loads %s as one, so its parts must be quantized alike, or none of them", fused)
			}
		}
	}
	return ""
}

// unevenlyDense names a dense linear whose like in another block is quantized.
func unevenlyDense(layers []layout.Layer) string {
	quantized := map[string]bool{}
	for _, l := range layers {
		if inside, ok := layout.InBlock(l.Name); ok && !l.Dense {
			quantized[inside] = true
		}
	}
	for _, l := range layers {
		if inside, ok := layout.InBlock(l.Name); ok && l.Dense && quantized[inside] {
			return l.Name
		}
	}
	return ""
}

// narrow warns of awq layers that only vLLM's newer kernels take.
func narrow(format, engine string, layers []layout.Layer) string {
	if format != "awq" || engine == layout.EngineMLX {
		return ""
	}
	for _, l := range layers {
		if !l.Dense && l.Out%64 != 0 && slices.Contains(marlinGroups, l.Scheme.GroupSize) {
			return fmt.Sprintf("outputs that are no multiple of 64 (%d in %s) are padded by the Marlin kernel of 2026; earlier ones and AutoAWQ's own refuse them", l.Out, l.Name)
		}
	}
	return ""
}

// rowParallel are the linears whose inputs tensor parallelism cuts.
var rowParallel = []string{"o_proj", "down_proj", "out_proj", "c_proj", "fc2", "dense", "dense_4h_to_h", "wo", "w2"}

// mostShards is the largest tensor-parallel size that is looked at.
const mostShards = 8

// shards warns of groups that tensor parallelism would cut.
func shards(layers []layout.Layer) string {
	cut := slices.DeleteFunc(slices.Clone(layers), func(l layout.Layer) bool {
		return l.Scheme.GroupSize == quant.WholeLine || !slices.Contains(rowParallel, l.Name[strings.LastIndexByte(l.Name, '.')+1:])
	})
	most := mostShards
	var worst layout.Layer
	for _, l := range cut {
		if n := evenShards(l.In, l.Scheme.GroupSize); n < most {
			most, worst = n, l
		}
	}
	if most == mostShards {
		return ""
	}
	size := worst.Scheme.GroupSize
	n := worst.Scheme.Groups(worst.In)
	groups := "groups"
	if n == 1 {
		groups = "group"
	}
	text := fmt.Sprintf("tensor-parallel size up to %d only: %s has %d %s of %d", most, worst.Name, n, groups, size)
	best, would := most, 0
	for _, g := range []int{128, 64, 32} {
		n := mostShards
		for _, l := range cut {
			n = min(n, evenShards(l.In, g))
		}
		if g < size && n > best {
			best, would = n, g
		}
	}
	if would > 0 {
		text += fmt.Sprintf("; groups of %d would do up to %d", would, best)
	}
	return text
}

// evenShards is the largest power of two, up to mostShards, into which the
// inputs can be cut between groups; 0 if the groups do not divide them at all.
func evenShards(in, group int) int {
	if in%group != 0 {
		return 0
	}
	n := 1
	for n < mostShards && in/group%(2*n) == 0 {
		n *= 2
	}
	return n
}
