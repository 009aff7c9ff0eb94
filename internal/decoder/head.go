package decoder

import (
	"math"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/internal/program/stored"
	"github.com/golowbit/lowbit/tensor"
)

// Head turns the residual stream into logits: the final norm and the output
// matrix.
type Head struct {
	Weight  *tensor.Matrix // [Vocab, Hidden], or as wide as the embedding
	Bias    []float32      // [Vocab], or nil
	spec    HeadSpec
	gain    []float32 // of the norm [Hidden], or nil
	shift   []float32 // its bias, or nil
	project *tensor.Matrix
}

// LoadHead reads the output head. In a model with tied embeddings its matrix
// is that of the embedding, which is read if nil or not in memory.
func (m *Model) LoadHead(w program.Weights, embedding *Embedding) (*Head, error) {
	h := &Head{spec: m.Head}
	var err error
	if !h.spec.None {
		if h.gain, h.shift, err = m.loadNorm(w, &h.spec.Norm, m.Names.FinalNorm); err != nil {
			return nil, err
		}
	}
	width := m.embedWidth()
	if m.Names.ProjectOut != "" {
		if h.project, err = stored.LoadMatrix(w, m.Names.ProjectOut, width, m.Hidden); err != nil {
			return nil, err
		}
	}
	switch {
	case !m.Tied:
		h.Weight, err = stored.LoadMatrix(w, m.Names.Head, m.Vocab, width)
	case embedding != nil && embedding.Weight != nil:
		h.Weight = embedding.Weight
	default:
		h.Weight, err = stored.LoadMatrix(w, m.Names.Embedding, m.Vocab, width)
	}
	if err == nil && h.spec.Bias {
		h.Bias, err = stored.LoadVector(w, biasOf(m.Names.Head), m.Vocab)
	}
	if err != nil {
		return nil, err
	}
	return h, nil
}

// loadNorm reads gain and bias of a norm outside the blocks.
func (m *Model) loadNorm(w program.Weights, s *program.Norm, name string) (gain, bias []float32, err error) {
	if s.Eps == 0 {
		s.Eps = m.NormEps
	}
	if !s.Plain {
		if gain, err = stored.LoadVector(w, name, m.Hidden); err != nil {
			return nil, nil, err
		}
		gain = s.GainOf(gain)
	}
	if s.Bias {
		bias, err = stored.LoadVector(w, biasOf(name), m.Hidden)
	}
	return gain, bias, err
}

// biasOf is the name of the bias that goes with a weight.
func biasOf(weight string) string { return strings.TrimSuffix(weight, ".weight") + ".bias" }

// Normed writes to dst [rows, width of Weight] what enters the output matrix; x
// is [rows, Hidden].
func (h *Head) Normed(r *program.Runner, dst, x *tensor.Matrix) {
	if dst.Rows != x.Rows || dst.Cols != h.Weight.Cols {
		panic("decoder: norm of mismatched shapes")
	}
	n := dst
	if h.project != nil {
		n = r.Matrix(x.Rows, x.Cols)
		defer r.Release(n)
	}
	r.Bands(x.Rows, func(i0, i1 int) {
		for i := i0; i < i1; i++ {
			if h.spec.None {
				copy(n.Row(i), x.Row(i))
			} else {
				h.spec.Norm.Apply(n.Row(i), x.Row(i), h.gain, h.shift)
			}
		}
	})
	if h.project != nil {
		tensor.Gemm(false, true, 1, n, h.project, 0, dst, r.Workers())
	}
}

// Logits writes the logits of x, [rows, Hidden], to dst, [rows, Vocab].
// Vocabularies are large: call it for some rows at a time.
func (h *Head) Logits(r *program.Runner, dst, x *tensor.Matrix) { h.logits(r, dst, x, false) }

// Next is Logits, up to rounding, of tokens that came alone.
func (h *Head) Next(r *program.Runner, dst, x *tensor.Matrix) {
	h.logits(r, dst, x, x.Rows <= tensor.Few)
}

func (h *Head) logits(r *program.Runner, dst, x *tensor.Matrix, few bool) {
	n := r.Matrix(x.Rows, h.Weight.Cols)
	h.Normed(r, n, x)
	if few {
		tensor.MulT(n, h.Weight, 0, dst, r.Workers())
	} else {
		tensor.Gemm(false, true, 1, n, h.Weight, 0, dst, r.Workers())
	}
	r.Release(n)
	if h.Bias == nil && h.spec.Scale == 0 && h.spec.Cap == 0 {
		return
	}
	r.Bands(dst.Rows, func(i0, i1 int) {
		for i := i0; i < i1; i++ {
			if h.Bias != nil {
				kernel.Axpy(1, h.Bias, dst.Row(i))
			}
			h.spec.adjust(dst.Row(i))
		}
	})
}

func (s *HeadSpec) adjust(logits []float32) {
	if s.Scale != 0 {
		kernel.Scale(logits, float32(s.Scale))
	}
	if s.Cap != 0 {
		for j, v := range logits {
			logits[j] = float32(s.Cap * math.Tanh(float64(v)/s.Cap))
		}
	}
}

// NLL returns the negative log-likelihood, in nats, of target under the
// softmax of logits.
func NLL(logits []float32, target int32) float64 {
	return kernel.LogSumExp(logits) - float64(logits[target])
}

// KL returns the Kullback-Leibler divergence, in nats, of the softmax of q
// from that of p: sum of P (log P - log Q). p and q have the same length.
func KL(p, q []float32) float64 {
	_, pTop := kernel.MinMax(p)
	_, qTop := kernel.MinMax(q)
	pShift, qShift := float64(pTop), float64(qTop)
	var pSum, qSum, diff float64
	q = q[:len(p)]
	for i, v := range p {
		e := math.Exp(float64(v) - pShift)
		pSum += e
		diff += float64(e * (float64(v) - float64(q[i])))
		qSum += math.Exp(float64(q[i]) - qShift)
	}
	return diff/pSum - ((pShift + math.Log(pSum)) - (qShift + math.Log(qSum)))
}

// NLLs writes the negative log-likelihood of targets[i] under row i of logits
// to dst. A negative target is skipped and gives 0.
func NLLs(r *program.Runner, dst []float64, logits *tensor.Matrix, targets []int32) {
	if len(dst) != logits.Rows || len(targets) != logits.Rows {
		panic("decoder: targets and logits differ in number")
	}
	r.Bands(logits.Rows, func(i0, i1 int) {
		for i := i0; i < i1; i++ {
			dst[i] = 0
			if targets[i] >= 0 {
				dst[i] = NLL(logits.Row(i), targets[i])
			}
		}
	})
}

// KLs writes KL of each row of p and q to dst.
func KLs(r *program.Runner, dst []float64, p, q *tensor.Matrix) {
	if len(dst) != p.Rows || p.Rows != q.Rows || p.Cols != q.Cols {
		panic("decoder: logits of mismatched shapes")
	}
	r.Bands(p.Rows, func(i0, i1 int) {
		for i := i0; i < i1; i++ {
			dst[i] = KL(p.Row(i), q.Row(i))
		}
	})
}

// SameTop is in how many rows the largest of p and of q are at the same place, the first of
// equals.
func SameTop(r *program.Runner, p, q *tensor.Matrix) int {
	if p.Rows != q.Rows || p.Cols != q.Cols {
		panic("decoder: logits of mismatched shapes")
	}
	var same atomic.Int64
	r.Bands(p.Rows, func(i0, i1 int) {
		n := int64(0)
		for i := i0; i < i1; i++ {
			if top(p.Row(i)) == top(q.Row(i)) {
				n++
			}
		}
		same.Add(n)
	})
	return int(same.Load())
}

// top is where the largest of v is.
func top(v []float32) int {
	_, most := kernel.MinMax(v)
	return slices.Index(v, most)
}
