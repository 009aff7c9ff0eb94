package llama

import (
	"math"

	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/tensor"
)

// Head turns the residual stream into logits: the final norm and the output
// matrix.
type Head struct {
	Norm   []float32      // [Hidden]
	Weight *tensor.Matrix // [Vocab, Hidden]
}

// LoadEmbedding reads the embedding, [Vocab, Hidden].
func LoadEmbedding(c *Config, w Weights) (*tensor.Matrix, error) {
	return loadMatrix(w, EmbeddingName, c.Vocab, c.Hidden)
}

// LoadHead reads the output head. In a model with tied embeddings its matrix
// is embedding, which is read if nil.
func LoadHead(c *Config, w Weights, embedding *tensor.Matrix) (*Head, error) {
	norm, err := loadVector(w, FinalNormName, c.Hidden)
	if err != nil {
		return nil, err
	}
	h := &Head{Norm: norm, Weight: embedding}
	switch {
	case !c.Tied:
		h.Weight, err = loadMatrix(w, HeadName, c.Vocab, c.Hidden)
	case embedding == nil:
		h.Weight, err = LoadEmbedding(c, w)
	}
	if err != nil {
		return nil, err
	}
	return h, nil
}

// Logits writes the logits of x, [rows, Hidden], to dst, [rows, Vocab].
// Vocabularies are large: call it for some rows at a time.
func (r *Runner) Logits(h *Head, dst, x *tensor.Matrix) {
	for i0 := 0; i0 < x.Rows; i0 += chunkRows {
		i1 := min(i0+chunkRows, x.Rows)
		n := r.buffer(bufNorm, i1-i0, x.Cols)
		r.norm(n, x.View(i0, i1, 0, x.Cols), h.Norm)
		tensor.Gemm(false, true, 1, n, h.Weight, 0, dst.View(i0, i1, 0, dst.Cols), r.workers)
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
func (r *Runner) NLLs(dst []float64, logits *tensor.Matrix, targets []int32) {
	if len(dst) != logits.Rows || len(targets) != logits.Rows {
		panic("llama: targets and logits differ in number")
	}
	r.rows(logits.Rows, func(i0, i1 int) {
		for i := i0; i < i1; i++ {
			dst[i] = 0
			if targets[i] >= 0 {
				dst[i] = NLL(logits.Row(i), targets[i])
			}
		}
	})
}

// KLs writes KL of each row of p and q to dst.
func (r *Runner) KLs(dst []float64, p, q *tensor.Matrix) {
	if len(dst) != p.Rows || p.Rows != q.Rows || p.Cols != q.Cols {
		panic("llama: logits of mismatched shapes")
	}
	r.rows(p.Rows, func(i0, i1 int) {
		for i := i0; i < i1; i++ {
			dst[i] = KL(p.Row(i), q.Row(i))
		}
	})
}
