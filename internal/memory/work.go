package memory

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/tensor"
)

// single plans work that takes bytes beside the program; fits tells whether they may be
// used.
func single(limit int64, what string, bytes int64) (p *Plan, fits bool) {
	p = &Plan{Limit: limit, Parts: []Part{{what, bytes}, {"rest", base}}}
	return p, limit <= 0 || p.Peak() <= limit-limit/32
}

// Layer plans a run without text: what is needed for the largest layer.
func Layer(limit, bytes int64) (*Plan, error) {
	p, fits := single(limit, "layer", bytes)
	if !fits {
		return nil, tooLittle(need{solve: bytes}, base, 0, limit)
	}
	return p, nil
}

// Reading plans to read and encode a text, which takes bytes. It refuses what is more
// than the program itself takes; less is refused, if at all, with all that is needed.
func Reading(limit, bytes int64) (*Plan, error) {
	p, fits := single(limit, "text", bytes)
	if !fits && bytes > base {
		return nil, fmt.Errorf("%w: to read and encode the text %s are needed and %s allowed: take less of it", ErrTooLittle, Size(p.Peak()), Size(limit))
	}
	p.held = p.Peak()
	return p, nil
}

// Tuning plans to tune a model, which takes bytes.
func Tuning(limit, bytes int64) (*Plan, error) {
	limit = cmp.Or(limit, Default())
	p, fits := single(limit, "tuning", bytes)
	if !fits {
		return nil, fmt.Errorf("%w: to tune the model %s are needed and %s allowed: tune scales instead of codes, or nothing", ErrTooLittle, Size(p.Peak()), Size(limit))
	}
	return p, nil
}

// Generating plans to have a model write, all of which takes bytes.
func Generating(limit, bytes int64) (*Plan, error) {
	limit = cmp.Or(limit, Default())
	p, fits := single(limit, "model", bytes)
	if !fits {
		return nil, fmt.Errorf("%w: to have the model write, all of it in float32, %s are needed and %s allowed", ErrTooLittle, Size(p.Peak()), Size(limit))
	}
	return p, nil
}

// Writing plans to put a result together, on as many workers as there is room for:
// each has a layer of so many weights, as it was kept and as it is stored, as floats
// in a dense format.
func Writing(limit, weights int64, dense bool, workers int) (bytes int64, at int) {
	each := 4 * weights
	if dense {
		each += 8 * weights
	}
	if limit > 0 && each > 0 {
		workers = int(max(1, min(int64(workers), (limit-limit/32-base)/each)))
	}
	return base + int64(workers)*each, workers
}

// Converting plans a conversion: as Writing, except that what does not fit is refused.
func Converting(limit, weights int64, dense bool, workers int) (*Plan, int, error) {
	bytes, workers := Writing(limit, weights, dense, workers)
	p, fits := single(limit, "layers", bytes-base)
	if !fits {
		return nil, 0, tooLittle(need{weights: bytes - base}, base, 0, limit)
	}
	return p, workers, nil
}

// Speed is how many multiplications and additions products take a second, measured
// for about a tenth of a second.
func Speed(workers int) float64 {
	const rows, n = 256, 1024
	rng := rand.New(rand.NewPCG(1, 1))
	random := func(rows int) *tensor.Matrix {
		m := tensor.New(rows, n)
		for i := range m.Data {
			m.Data[i] = rng.Float32()
		}
		return m
	}
	x, w, y := random(rows), random(n), tensor.New(rows, n)
	start, times := time.Now(), 0
	for time.Since(start) < 100*time.Millisecond {
		tensor.Gemm(false, true, 1, x, w, 0, y, workers)
		times++
	}
	return float64(times) * rows * n * n / time.Since(start).Seconds()
}

// Products is about how many multiplications and additions the text takes: on its
// way through the blocks, and for statistics.
func (c *Calibration) Products(p *Plan) float64 {
	var n float64
	for _, b := range c.Model.Blocks {
		n += c.products(b, p)
	}
	if c.Curved != nil {
		n += c.backProducts()
	}
	return n
}

func (c *Calibration) products(b *program.Program, p *Plan) float64 {
	tokens := float64(c.Tokens)
	way := float64(p.Passes)
	if c.Quantized {
		// What is cheaper computed again than kept is computed twice.
		way = 2 * float64(c.streams())
	}
	var n float64
	for _, l := range b.Linears {
		n += way * share(c.Model, l.Expert) * tokens * float64(l.Out) * float64(l.In)
	}
	for _, s := range b.Stages {
		in := float64(s.Width)
		each := in * in / 2
		if c.Paired && s.Expert < 0 {
			each += in * in
			for _, l := range s.Linears {
				if s.Residual {
					each += in * float64(b.Linears[l].Out)
				}
			}
		}
		n += share(c.Model, s.Expert) * tokens * each
	}
	return n
}

// share is about which part of the tokens goes to an expert.
func share(m *decoder.Model, expert int) float64 {
	const chosen = 4
	if expert < 0 || m.Experts <= chosen {
		return 1
	}
	return chosen / float64(m.Experts)
}

// SolveSize is the size of the square layer that a method is timed with.
const SolveSize = 1024

// Solves is how much longer a method takes for layers [out, in] than for one of
// SolveSize: the costs of a factor go with in³, those of the rest with out·in².
func Solves(out, in int) float64 {
	o, i := float64(out)/SolveSize, float64(in)/SolveSize
	return i * i * (i + 3*o) / 4
}
