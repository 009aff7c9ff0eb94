package blocks

import (
	"context"
	"fmt"
	"io"
	"math"
	"slices"

	"github.com/golowbit/lowbit/internal/phases"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/internal/streams"
	"github.com/golowbit/lowbit/internal/team"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// Team divides the work among parts.
type Team struct {
	Folder *team.Folder
	Owner  func(layer string) int           // the part that quantizes a layer
	Look   func(layer string) (bool, error) // whether a layer is there, also of another part
	Note   func(key string) (bool, error)   // whether a note is there, which Layers.Noted then has
}

// ChunkTokens is how many tokens are summed up one after the other. The sums of more are
// those of chunks, added in order: so a part can sum up some chunks, and what comes out
// does not depend on the number of parts.
const ChunkTokens = 32 << 10

// chunks divides windows of seqLen into as few chunks of at most about so many tokens as
// there can be, of whole batches: how many windows are in each.
func chunks(windows, seqLen, tokens int) []int {
	batch := program.Batch(seqLen) / seqLen // windows
	batches := (windows + batch - 1) / batch
	n := min(batches, (windows*seqLen+tokens-1)/tokens)
	sizes := make([]int, n)
	for c := range n {
		sizes[c] = min(windows, batches*(c+1)/n*batch) - batches*c/n*batch
	}
	return sizes
}

// divide finds the chunks, and returns the windows of this part.
func (r *run) divide(windows [][]int32) [][]int32 {
	most := r.Chunk
	if most == 0 {
		most = ChunkTokens
	}
	r.chunks = chunks(len(windows), r.walk.SeqLen, most)
	r.from, r.to = 0, len(r.chunks)
	if r.Team == nil {
		return windows
	}
	r.from, r.to = r.Team.Folder.Part.Range(len(r.chunks))
	before := 0
	for _, n := range r.chunks[:r.from] {
		before += n
	}
	after := before
	for _, n := range r.chunks[r.from:r.to] {
		after += n
	}
	return windows[before:after]
}

// tally sums up what a stage sees, chunk by chunk.
type tally struct {
	r      *run
	stage  int
	paired bool
	sum    *quant.Collector // of chunks that are whole; nil in a team
	now    *quant.Collector // of the chunk at hand
	chunk  int              // which that is
	left   int              // how many tokens it lacks
}

func (r *run) tally(stage int, paired bool) *tally {
	t := &tally{r: r, stage: stage, paired: paired, chunk: r.from}
	t.begin()
	return t
}

func (t *tally) begin() {
	if t.chunk < t.r.to {
		t.left = t.r.chunks[t.chunk] * t.r.walk.SeqLen
	}
}

// collector is what a batch is added to; seen must follow.
func (t *tally) collector() *quant.Collector {
	if t.now == nil {
		t.now = t.r.collector(t.stage, t.paired)
	}
	return t.now
}

// seen ends a batch of so many tokens.
func (t *tally) seen(tokens int) error {
	if t.left -= tokens; t.left > 0 {
		return nil
	}
	c := t.collector()
	t.now = nil
	switch {
	case t.r.Team != nil:
		if err := t.publish(c); err != nil {
			return err
		}
	case t.sum == nil:
		t.sum = c
	default:
		t.sum.Join(c)
	}
	t.chunk++
	t.begin()
	return nil
}

// end returns the sums of all chunks; in a team nil if nothing here needs them.
func (t *tally) end(ctx context.Context, needed bool) (*quant.Collector, error) {
	if t.r.Team == nil {
		return t.sum, nil
	}
	if !needed {
		return nil, nil
	}
	few := &t.r.few
	few.routed[t.stage], few.filled[t.stage] = 0, 0
	var all *quant.Collector
	for c := range t.r.chunks {
		next, err := t.read(ctx, c)
		if err != nil {
			return nil, err
		}
		if all == nil {
			all = next
		} else {
			all.Join(next)
		}
	}
	return all, nil
}

// sumsMark begins the sums of a chunk: the mark, sumsHead numbers and those of AbsSum, then
// float32, and a seal.
const (
	sumsMark = "lowbit sums 1"
	sumsHead = 8
)

func sumsName(block, stage, chunk int) string {
	return fmt.Sprintf("sums-%d-%d-%d", block, stage, chunk)
}

// head says what sums are of.
func (t *tally) head(chunk int, s *quant.Sums) []uint64 {
	residual := 0
	if s.Residual[0] != nil {
		residual = s.Residual[0].Rows
	}
	return []uint64{uint64(t.r.block.Index), uint64(t.stage), uint64(chunk), uint64(len(s.AbsSum)), uint64(len(s.H)), uint64(residual),
		uint64(t.r.few.routed[t.stage]), uint64(t.r.few.filled[t.stage])}
}

// publish leaves the sums of the chunk at hand for all parts, this one among them.
func (t *tally) publish(c *quant.Collector) error {
	defer t.r.clock.Enter(phases.Writing)()
	s := c.Sums()
	few := &t.r.few
	err := t.r.Team.Folder.Put(sumsName(t.r.block.Index, t.stage, t.chunk), func(out io.Writer) error {
		k, err := streams.NewKeptWriter(out, sumsMark)
		if err != nil {
			return err
		}
		numbers := t.head(t.chunk, &s)
		for _, v := range s.AbsSum {
			numbers = append(numbers, math.Float64bits(v))
		}
		for _, n := range s.Tokens {
			numbers = append(numbers, uint64(n))
		}
		if err := k.Numbers(numbers...); err != nil {
			return err
		}
		if err := eachRow(&s, k.Floats); err != nil {
			return err
		}
		if err := k.Seal(); err != nil {
			return err
		}
		return k.Flush()
	})
	few.routed[t.stage], few.filled[t.stage] = 0, 0 // of the next chunk
	return err
}

// eachRow goes through the floats of sums, of H the lower triangle alone.
func eachRow(s *quant.Sums, fn func(row []float32) error) error {
	if err := fn(s.AbsMax); err != nil {
		return err
	}
	for i := range s.H {
		for r := range s.H[i].Rows {
			if err := fn(s.H[i].Row(r)[:r+1]); err != nil {
				return err
			}
		}
		for _, m := range []*tensor.Matrix{s.Cross[i], s.Residual[i]} {
			if m == nil {
				continue
			}
			for r := range m.Rows {
				if err := fn(m.Row(r)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// read waits for the sums of a chunk and reads them.
func (t *tally) read(ctx context.Context, chunk int) (c *quant.Collector, err error) {
	folder := t.r.Team.Folder
	name := sumsName(t.r.block.Index, t.stage, chunk)
	if err := t.r.wait(ctx, "statistics of block "+fmt.Sprint(t.r.block.Index), t.r.summer(chunk), func() (bool, error) {
		file, err := folder.Open(name)
		if file == nil || err != nil {
			return false, err
		}
		defer file.Close()
		defer t.r.clock.Enter(phases.Reading)()
		c, err = t.decode(file, chunk)
		if err != nil {
			err = fmt.Errorf("%s: %w: remove it, and run part %d again", folder.Path(name), err, t.r.summer(chunk))
		}
		return true, err
	}); err != nil {
		return nil, err
	}
	return c, nil
}

func (t *tally) decode(in io.ReaderAt, chunk int) (*quant.Collector, error) {
	k, err := streams.NewKeptReader(in, sumsMark)
	if err != nil {
		return nil, err
	}
	head, err := k.Numbers(sumsHead)
	if err != nil {
		return nil, err
	}
	s := t.r.collector(t.stage, t.paired).Sums()
	want := t.head(chunk, &s)
	residual := 0
	if t.paired && t.r.block.Stages[t.stage].Residual {
		residual = t.r.block.Linears[t.r.block.Stages[t.stage].Linears[0]].Out
	}
	want[5], want[6], want[7] = uint64(residual), head[6], head[7]
	if !slices.Equal(head, want) {
		return nil, fmt.Errorf("%w: %v, want %v", streams.ErrKept, head, want)
	}
	numbers, err := k.Numbers(len(s.AbsSum) + len(s.Tokens))
	if err != nil {
		return nil, err
	}
	for j := range s.AbsSum {
		s.AbsSum[j] = math.Float64frombits(numbers[j])
	}
	for i := range s.Tokens {
		s.Tokens[i] = int(numbers[len(s.AbsSum)+i])
		if residual > 0 {
			s.Residual[i] = tensor.New(residual, len(s.AbsSum))
		}
	}
	if err := eachRow(&s, k.Floats); err != nil {
		return nil, err
	}
	t.r.few.routed[t.stage] += int(head[6])
	t.r.few.filled[t.stage] += int(head[7])
	return s.Collector(), k.Seal()
}

// summer is the part that sums up a chunk.
func (r *run) summer(chunk int) int {
	for i := range r.Team.Folder.Part.Count {
		p := team.Part{Index: i + 1, Count: r.Team.Folder.Part.Count}
		if from, to := p.Range(len(r.chunks)); from <= chunk && chunk < to {
			return p.Index
		}
	}
	return 0
}

// wait waits for another part.
func (r *run) wait(ctx context.Context, what string, part int, ready func() (bool, error)) error {
	defer r.clock.Enter(phases.Waiting)()
	return r.Team.Folder.Wait(ctx, what, part, ready)
}

// mine says that this part quantizes a layer.
func (r *run) mine(name string) bool {
	return r.Team == nil || r.Team.Owner(name) == r.Team.Folder.Part.Index
}

// wants says that this part has a layer still to quantize.
func (r *run) wants(name string) bool { return r.layers.Pending(name) && r.mine(name) }

// needs says that this part quantizes layers that read a stage.
func (r *run) needs(stage int) bool {
	return slices.ContainsFunc(r.block.Stages[stage].Linears, func(i int) bool { return r.wants(r.block.Linears[i].Name) })
}

// look finds what other parts have finished of a program's layers.
func (r *run) look(p *program.Program) error {
	if r.Team == nil {
		return nil
	}
	for _, l := range p.Linears {
		if r.layers.Pending(l.Name) {
			if _, err := r.Team.Look(l.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

// await waits for a layer of another part.
func (r *run) await(ctx context.Context, name string) error {
	if r.mine(name) || !r.layers.Pending(name) {
		return nil
	}
	return r.wait(ctx, name, r.Team.Owner(name), func() (bool, error) { return r.Team.Look(name) })
}

// dropSums removes this part's sums of a stage once nobody needs them.
func (r *run) dropSums(block, stage int) error {
	if r.Team == nil {
		return nil
	}
	for c := r.from; c < r.to; c++ {
		if err := r.Team.Folder.Remove(sumsName(block, stage, c)); err != nil {
			return err
		}
	}
	return nil
}

// follow waits until no layer of a block before is missing, and removes what was needed
// for it: no part goes far ahead of the others, and fills the disk with sums.
func (r *run) follow(ctx context.Context, block int) error {
	if r.Team == nil || !r.Full || block < 0 {
		return nil
	}
	p := r.walk.Model.Blocks[block]
	for _, l := range p.Linears {
		if err := r.await(ctx, l.Name); err != nil {
			return err
		}
	}
	for s := range p.Stages {
		if err := r.dropSums(block, s); err != nil {
			return err
		}
	}
	return nil
}
