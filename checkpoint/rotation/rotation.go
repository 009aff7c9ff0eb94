// Package rotation shows a model in other bases: the same function, up to rounding, its
// weights rotated as they are stored (MambaQuant, arXiv 2501.13484; see internal/rotate for
// what is rotated). A rotation can help a quantizer and can hurt it, so Choose measures.
package rotation

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"gonum.org/v1/gonum/mat"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/measure"
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch"
	"github.com/golowbit/lowbit/internal/memory"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/internal/rotate"
	"github.com/golowbit/lowbit/internal/streams"
	"github.com/golowbit/lowbit/internal/walk"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
	"github.com/golowbit/lowbit/tensor"
)

// ErrUnsupported is wrapped by errors about a model that rotations do not fold into; they
// say which tensor or operation is in the way.
var ErrUnsupported = rotate.ErrUnsupported

// Kind is a kind of rotation.
type Kind string

const (
	None     Kind = "none"     // the model as it is
	Hadamard Kind = "hadamard" // a Hadamard matrix with random signs
	// KLT is the Karhunen-Loève-enhanced rotation of section 4 (H_K = K·H): eigenvectors of
	// the second moments of what the residual stream's readers see, before such a Hadamard
	// matrix, after which all channels have the same mean square. (The paper takes the
	// covariance; no mean is subtracted here, as nothing subtracts it before rounding.)
	KLT Kind = "klt"
)

// Parse is the rotation of a name, or, for auto, those among which Choose does.
func Parse(name string) ([]Kind, error) {
	switch k := Kind(name); k {
	case Hadamard, KLT:
		return []Kind{k}, nil
	case "auto":
		return []Kind{None, Hadamard, KLT}, nil
	}
	return nil, fmt.Errorf("unknown rotation %q, want hadamard, klt or auto", name)
}

// Options say how a model is rotated.
type Options struct {
	Windows [][]int32 // of token ids, all of one length: what KLT looks at
	Seed    uint64    // of the signs
	// DType is the type in which floats are shown; "" is what they are stored in, to
	// which rotated weights are then rounded.
	DType   safetensors.DType
	Workers int   // goroutines; 0 means GOMAXPROCS
	Memory  int64 // bytes that a measurement may use; 0 means 80 % of what there is
	// Step, if not nil, is told of steps of a measurement.
	Step func(done, total int, model string)

	eigen *tensor.Matrix // of KLT, once they are known
}

// view is what is needed to show a model in other bases.
type view struct {
	src     *checkpoint.Model
	model   *decoder.Model
	dtype   safetensors.DType
	round   *quant.Scheme
	workers int
}

// Of shows a dense model rotated. It shares the files of m; closing either closes both.
func Of(ctx context.Context, m *checkpoint.Model, kind Kind, o Options) (*checkpoint.Model, error) {
	return of(ctx, m, kind, &o)
}

func of(ctx context.Context, m *checkpoint.Model, kind Kind, o *Options) (*checkpoint.Model, error) {
	d, err := arch.Open(m)
	if err != nil {
		return nil, err
	}
	v := &view{m, d, o.DType, nil, o.Workers}
	bases, err := v.bases(ctx, kind, o)
	if err != nil {
		return nil, err
	}
	return v.rotated(bases)
}

// bases are those of a kind by their width, nil for none.
func (v *view) bases(ctx context.Context, kind Kind, o *Options) (func(width int) *rotate.Basis, error) {
	var eigen *tensor.Matrix
	switch kind {
	case None:
		return nil, nil
	case KLT:
		if o.eigen == nil {
			var err error
			if o.eigen, err = v.eigenvectors(ctx, o.Windows, o.Memory); err != nil {
				return nil, err
			}
		}
		eigen = o.eigen
	}
	return func(width int) *rotate.Basis {
		if width == v.model.Hidden {
			return rotate.NewBasis(width, o.Seed, eigen)
		}
		return rotate.NewBasis(width, o.Seed, nil)
	}, nil
}

// eigenvectors are those, in columns, of Σ n nᵀ over all tokens and all inputs of blocks' linears
// that are the normed residual stream, n being what is there before the gain of the norm.
func (v *view) eigenvectors(ctx context.Context, windows [][]int32, limit int64) (*tensor.Matrix, error) {
	if len(windows) == 0 {
		return nil, fmt.Errorf("%w: rotation %s goes by what the model sees in it", ErrText, KLT)
	}
	p, err := rotate.New(v.model)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", v.src.Path(), err)
	}
	reads := map[string]bool{}
	for _, e := range p.Edits {
		if e.Stream {
			reads[e.Linear] = true
		}
	}
	folded, err := (&view{v.src, v.model, safetensors.F32, nil, v.workers}).rotated(rotate.Identity)
	if err != nil {
		return nil, err
	}
	d, err := arch.Open(folded)
	if err != nil {
		return nil, err
	}
	r := program.NewRunner(v.workers)
	w := &walk.Walk{Model: d, Weights: folded, Runner: r, SeqLen: len(windows[0]), Store: streams.New(r, streams.Unlimited, nil)}
	h := tensor.New(p.Width, p.Width)
	// As much of the text at a time as a quarter of the memory holds.
	each := 4 * int64(p.Width) * int64(len(windows[0]))
	together := int(min(max(cmp.Or(limit, memory.Default())/4/each, 1), int64(len(windows))))
	for part := range slices.Chunk(windows, together) {
		err := w.Every(ctx, part, func(b *program.Block, stage int, f *program.Frame) error {
			if s := &b.Stages[stage]; reads[b.Linears[s.Linears[0]].Name] {
				tensor.SyrkT(f.Input(s), h, r.Workers())
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return eigenvectors(h)
}

// eigenvectors of the symmetric matrix whose lower triangle is in h.
func eigenvectors(h *tensor.Matrix) (*tensor.Matrix, error) {
	n := h.Rows
	s := mat.NewSymDense(n, nil)
	for i := range n {
		for j := range i + 1 {
			s.SetSym(i, j, float64(h.At(i, j)))
		}
	}
	var e mat.EigenSym
	if !e.Factorize(s, true) {
		return nil, fmt.Errorf("the eigenvectors of %d channels of the residual stream are not found: the iteration does not converge", n)
	}
	var q mat.Dense
	e.VectorsTo(&q)
	k := tensor.New(n, n)
	for i, x := range q.RawMatrix().Data {
		k.Data[i] = float32(x)
	}
	return k, nil
}

// Trial is a kind of rotation and what a model loses with it.
type Trial struct {
	Kind Kind    `json:"rotation"`
	KL   float64 `json:"kl"` // nats a token, of the rounded model from the unquantized one
}

// Choose rounds the layers that rotations change to nearest, by the scheme, in each of the
// kinds, and measures the divergence from the unquantized model on windows, which should be
// others than Options.Windows. The trials are as the kinds; the best is the one with the
// smallest KL, the first of equals.
func Choose(ctx context.Context, m *checkpoint.Model, kinds []Kind, s quant.Scheme, windows [][]int32, o Options) (best Kind, all []Trial, err error) {
	return choose(ctx, m, kinds, s, windows, &o)
}

func choose(ctx context.Context, m *checkpoint.Model, kinds []Kind, s quant.Scheme, windows [][]int32, o *Options) (best Kind, all []Trial, err error) {
	d, err := arch.Open(m)
	if err != nil {
		return "", nil, err
	}
	job := measure.Job{Windows: windows, Memory: o.Memory, Step: o.Step}
	for _, kind := range kinds {
		v := &view{m, d, o.DType, &s, o.Workers} // as it would be stored
		bases, err := v.bases(ctx, kind, o)
		if err != nil {
			return "", nil, err
		}
		q, err := v.rotated(bases)
		if err != nil {
			return "", nil, err
		}
		dq, err := arch.Open(q)
		if err != nil {
			return "", nil, err
		}
		job.Models = append(job.Models, measure.Of(q, dq, false, o.Workers))
	}
	job.Models = append(job.Models, measure.Of(m, d, false, o.Workers))
	e, err := job.Run(ctx)
	if err != nil {
		return "", nil, err
	}
	least := 0
	for i, kind := range kinds {
		all = append(all, Trial{kind, *e[i].KL})
		if all[i].KL < all[least].KL {
			least = i
		}
	}
	return kinds[least], all, nil
}
