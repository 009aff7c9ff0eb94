package memory

import (
	"errors"
	"fmt"
	"strings"

	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/program"
)

// ErrTooLittle is wrapped by the error for work that does not fit.
var ErrTooLittle = errors.New("not enough memory")

// Part is one of the things that are in memory together.
type Part struct {
	Name  string `json:"name"`
	Bytes int64  `json:"bytes"`
}

// Plan says what will be in memory at most.
type Plan struct {
	Limit int64  `json:"limit"` // what there may be; 0 means that no limit is known
	Parts []Part `json:"parts"` // together, at the worst moment
	// Streams is how much the text is between two blocks, of which InFile lies in
	// a file beside the output.
	Streams int64 `json:"streams"`
	InFile  int64 `json:"in_file"`
	// Passes is how often the text goes through a block, at most, because the
	// statistics of all its layers do not fit at once.
	Passes int `json:"passes"`
	// Alone says that no block is read while another is worked on.
	Alone bool `json:"alone"`
	// ByExpert says that weights of experts are read when they are needed.
	ByExpert bool `json:"by_expert,omitempty"`
	// Experts is how much of them is kept.
	Experts int64 `json:"-"`
	// Share is how much of the streams may be in memory.
	Share int64 `json:"-"`
	// Batch is how much is computed for a batch of text.
	Batch int64 `json:"-"`
	// Statistics is how much the statistics of a pass may take.
	Statistics int64 `json:"-"`

	// Moments are other parts of the work, before or after: each needs so much by
	// itself, beside nothing of the above.
	Moments []Part `json:"moments,omitempty"`

	held int64 // what the garbage collector is to keep to, if it is less than the limit
}

// Work is the sum of the parts.
func (p *Plan) Work() int64 {
	var n int64
	for _, t := range p.Parts {
		n += t.Bytes
	}
	return n
}

// Peak is the most that there will be: the sum of the parts, or a moment that
// needs more.
func (p *Plan) Peak() int64 {
	n := p.Work()
	for _, t := range p.Moments {
		n = max(n, t.Bytes)
	}
	return n
}

// Besides notes what another moment of the work needs.
func (p *Plan) Besides(name string, bytes int64) {
	p.Moments = append(p.Moments, Part{name, bytes})
}

// Hold makes the garbage collector keep to the plan, until what it returns is
// called.
func (p *Plan) Hold() (release func()) {
	if p.held > 0 {
		return Hold(p.held)
	}
	return Hold(p.Limit - p.Limit/32)
}

// String is the plan in a line.
func (p *Plan) String() string {
	var parts []string
	for _, t := range p.Parts {
		if t.Bytes >= 1<<20 {
			parts = append(parts, t.Name+" "+Size(t.Bytes))
		}
	}
	s := fmt.Sprintf("memory: %s at most (%s)", Size(p.Work()), strings.Join(parts, ", "))
	for _, t := range p.Moments {
		if t.Bytes > p.Work() {
			s += fmt.Sprintf(", for %s alone %s", t.Name, Size(t.Bytes))
		}
	}
	if p.Limit > 0 {
		s += " of " + Size(p.Limit)
	}
	if p.ByExpert {
		s += "; weights of experts are read when they are needed"
	}
	if p.InFile > 0 {
		s += fmt.Sprintf("; %s of streams in a file beside the output", Size(p.InFile))
	}
	return s
}

// What is there besides: the program, its runtime, a tokenizer, headers.
const base = 96 << 20

// usable is what may be planned with: garbage is collected only after some of it
// is there, which is more the larger single pieces are.
func usable(limit, largest int64) int64 {
	if limit <= 0 {
		return 1 << 60
	}
	return limit - limit/32 - largest
}

// Calibration is a run with calibration text: what decides its memory.
type Calibration struct {
	Model          *decoder.Model
	Tokens, SeqLen int
	Held           int64 // what else is in memory all the time
	// Quantized says that blocks see what quantized layers make of the text,
	// Paired that the unquantized stream goes beside it.
	Quantized, Paired bool
	// References says that references of the block around are kept.
	References bool
	// Chunks says that statistics are summed up chunk by chunk: those of a chunk are there
	// beside those of all.
	Chunks bool
	// Folds tells the stages whose scales are folded.
	Folds func(block, stage int) bool
	// Curved tells the layers whose outputs' curvature is collected beforehand, in a
	// pass through the model and back; nil for none.
	Curved func(name string) bool
	// ByExpert says that weights of experts need not be in memory all the time, as far as it
	// is known here.
	ByExpert bool
	// Solve is what the method needs for a layer beside weight and statistics.
	Solve func(out, in int) int64
}

// need is what a block needs at one moment.
type need struct {
	weights, batch, stats, solve int64
}

func (n need) sum() int64 { return n.weights + n.batch + n.stats + n.solve }

// worst is the larger need.
func worst(a, b need) need {
	if b.sum() > a.sum() {
		return b
	}
	return a
}

// Plan divides limit bytes. The error wraps ErrTooLittle and tells how much is
// needed.
func (c *Calibration) Plan(limit int64) (*Plan, error) {
	var p *Plan
	var err error
	for _, by := range []bool{false, true} {
		for _, alone := range []bool{false, true} {
			if by && !c.byExpert() {
				return nil, err
			}
			if p, err = c.plan(limit, alone, by); err == nil {
				return p, nil
			}
		}
	}
	return nil, err
}

// byExpert tells whether nothing looks at the experts of a block together, if there are any.
func (c *Calibration) byExpert() bool {
	for i, b := range c.Model.Blocks {
		for s := range b.Stages {
			if b.Stages[s].Expert >= 0 && c.Folds(i, s) {
				return false
			}
		}
	}
	return c.ByExpert && !c.References && c.Curved == nil && expert(c.Model) > 0
}

// expert is how much the weights of an expert take, of the largest.
func expert(m *decoder.Model) (most int64) {
	for _, b := range m.Blocks {
		of := map[int]int64{}
		for _, l := range b.Linears {
			if l.Expert >= 0 {
				of[l.Expert] += 4 * int64(l.Out) * int64(l.In)
				most = max(most, of[l.Expert])
			}
		}
	}
	return most
}

// weights is how much of a block's weights are in memory, beside what is kept of experts
// that are read when they are needed.
func weights(b *program.Program, byExpert bool) int64 {
	n := b.Bytes()
	for _, l := range b.Linears {
		if byExpert && l.Expert >= 0 {
			n -= 4 * int64(l.Out) * int64(l.In)
		}
	}
	return n
}

func (c *Calibration) plan(limit int64, alone, byExpert bool) (*Plan, error) {
	p := &Plan{Limit: limit, Alone: alone, ByExpert: byExpert, Passes: 1}
	if byExpert {
		// Of one what is quantized, and what goes on from the one before, of each stream.
		p.Experts = 2 * c.streams() * expert(c.Model)
	}
	rest := int64(8*c.Tokens) + base + c.Held
	var largest, batch, kept int64
	for _, b := range c.Model.Blocks {
		for _, s := range b.Stages {
			largest = max(largest, square(s.Width))
		}
		computed, k := b.Widths()
		batch = max(batch, int64(4*computed))
		kept = max(kept, int64(4*k))
	}
	room := usable(limit, largest) - rest
	var most need
	for i := range c.Model.Blocks {
		n := c.block(i, alone, p, room)
		most = worst(most, n)
	}
	p.Batch = max(c.streams()*int64(c.rows())*batch, 1)
	p.Streams = c.streams() * int64(c.Tokens) * (4*int64(c.Model.Hidden) + c.between(kept))
	if c.Curved != nil {
		back, streams := c.back(alone)
		most = worst(most, back)
		p.Batch = max(p.Batch, back.batch)
		p.Streams = max(p.Streams+c.outputs(), streams)
	}
	if most.sum() > room {
		return nil, tooLittle(most, rest, largest, limit)
	}
	p.Share = room - most.sum()
	p.InFile = max(0, p.Streams-p.Share)
	p.Parts = []Part{
		{"weights", most.weights}, {"streams", p.Streams - p.InFile}, {"batch", most.batch}, {"statistics", most.stats}, {"solver", most.solve}, {"rest", rest},
	}
	if limit > 0 {
		p.held = p.Work()
	}
	// What is allocated while the collector runs comes on top; it is counted as usable
	// has left room for it.
	garbage := largest / 2
	if c.Curved != nil {
		garbage += 12 << 20 // of the way back; of small models it is more than half a square
	}
	p.Parts = append(p.Parts, Part{"garbage", garbage})
	return p, nil
}

// between is what is kept of a token between the stages of a block, of each stream.
func (c *Calibration) between(kept int64) int64 {
	if !c.Quantized && !c.References {
		return 0
	}
	if c.References {
		kept += 4 * int64(c.Model.Hidden)
	}
	return kept
}

func (n need) text(rest int64) string {
	var parts []string
	for _, t := range []Part{{"weights", n.weights}, {"batch", n.batch}, {"statistics", n.stats}, {"solver", n.solve}, {"rest", rest}} {
		if t.Bytes > 0 {
			parts = append(parts, t.Name+" "+Size(t.Bytes))
		}
	}
	return strings.Join(parts, ", ")
}

// tooLittle is the error for a limit of which too little is usable.
func tooLittle(n need, rest, largest, limit int64) error {
	return fmt.Errorf("%w: %s are needed at least (%s), %s may be used", ErrTooLittle,
		Size((n.sum()+rest+largest)*32/31+1<<20), n.text(rest), Size(limit))
}

// sets is how many sets of statistics are there while they are collected.
func (c *Calibration) sets() int64 {
	if c.Chunks {
		return 2
	}
	return 1
}

// streams is how many there are.
func (c *Calibration) streams() int64 {
	if c.Paired {
		return 2
	}
	return 1
}

// rows is how many tokens go through a block at once.
func (c *Calibration) rows() int { return min(c.Tokens, program.Batch(c.SeqLen)) }

func square(n int) int64 { return 4 * int64(n) * int64(n) }

// block is the most that block i needs. It notes in p how statistics are
// divided where they have to be.
func (c *Calibration) block(i int, alone bool, p *Plan, room int64) need {
	b := c.Model.Blocks[i]
	held := weights(b, p.ByExpert)
	if c.Quantized {
		held *= 2
	}
	if !alone && i+1 < len(c.Model.Blocks) {
		held += weights(c.Model.Blocks[i+1], p.ByExpert)
	}
	if p.ByExpert {
		held += p.Experts + expert(c.Model) // which is being read
	}
	computed, _ := b.Widths()
	batch := c.streams() * 4 * int64(c.rows()) * int64(computed+c.Model.Hidden)
	if !c.Quantized {
		return c.atOnce(b, i, need{weights: held, batch: batch}, p, room)
	}
	var most need
	var folded int64
	for s := range b.Stages {
		if c.Folds(i, s) {
			folded += square(b.Stages[s].Width)
			if l := b.Stages[s].Fold.Before; l >= 0 {
				folded += square(b.Stages[b.Linears[l].Stage].Width)
			}
		}
	}
	if folded > 0 {
		most = worst(most, need{weights: held, batch: batch, stats: folded})
		most = worst(most, need{weights: held, stats: folded, solve: c.solve(b, -1)})
	}
	for s := range b.Stages {
		for _, n := range c.stage(b, i, s) {
			n.weights = held
			if n.batch > 0 {
				n.batch += batch
			}
			most = worst(most, n)
		}
	}
	return most
}

// stage is what the moments of a stage need: while it is observed, while targets
// are corrected, while layers are quantized.
func (c *Calibration) stage(b *program.Program, block, stage int) []need {
	s := &b.Stages[stage]
	h := square(s.Width)
	var out, widest int64
	for _, l := range s.Linears {
		n := 4 * int64(b.Linears[l].Out) * int64(s.Width)
		out, widest = out+n, max(widest, n)
	}
	solved := need{stats: h, solve: c.solve(b, stage)}
	if !c.Paired || s.Expert >= 0 {
		return []need{{stats: c.sets() * h, batch: 1}, solved}
	}
	stats := 4 * h
	if s.Residual {
		stats += 2 * out
	}
	// Factor, and for each layer a shift and a right-hand side for either half.
	correct := h + 4*out + widest
	if c.Folds(block, stage) {
		correct += stats / 2
	}
	solved.solve += out // targets
	return []need{
		{stats: c.sets() * stats, batch: 4 * int64(c.rows()) * int64(s.Width+c.Model.Hidden)}, {stats: stats, solve: correct}, solved,
	}
}

// solve is the most that a layer of a stage, or with -1 of the block, needs.
func (c *Calibration) solve(b *program.Program, stage int) int64 {
	var most int64
	for _, l := range b.Linears {
		if stage < 0 || l.Stage == stage {
			most = max(most, c.Solve(l.Out, l.In))
		}
	}
	return most
}

// atOnce is what a block needs whose stages are observed in as few passes as
// there is room for.
func (c *Calibration) atOnce(b *program.Program, block int, n need, p *Plan, room int64) need {
	var all, largest int64
	for i, s := range b.Stages {
		all += square(s.Width)
		largest = max(largest, square(s.Width))
		if c.Folds(block, i) {
			largest = 1 << 60 // the scales are chosen from all
		}
	}
	solve := c.solve(b, -1)
	free := (room - n.weights - max(n.batch, solve)) / c.sets()
	stats := min(all, max(free, largest))
	if stats < all {
		p.Statistics = stats
		p.Passes = max(p.Passes, len(Groups(b, stats)))
	}
	n.stats = c.sets() * stats
	if solve > n.batch {
		n.batch, n.solve = 0, solve
	}
	return n
}

// Groups divides the stages of a block so that the statistics of each group take
// at most limit bytes, or it is one stage; 0 means no limit.
func Groups(b *program.Program, limit int64) [][]int {
	var all [][]int
	var used int64
	for s := range b.Stages {
		n := square(b.Stages[s].Width)
		if len(all) == 0 || limit > 0 && used+n > limit {
			all, used = append(all, nil), 0
		}
		used += n
		all[len(all)-1] = append(all[len(all)-1], s)
	}
	return all
}
