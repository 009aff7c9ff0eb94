package memory

import (
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/program"
)

// Evaluation is a measurement: what decides its memory.
type Evaluation struct {
	Models []*decoder.Model // run one after another, scored together
	// Sizes are, by model, how many bytes a layer that stays packed takes, 0 for others; nil where none does.
	Sizes          []func(layer string) int64
	Tokens, SeqLen int
	// Logits is how much is taken of them at a time, of each model.
	Logits int64
}

// Tokens at once are no more than have streams of this size: enough that to read
// the blocks again for the next does not matter.
const evalStreams = 128 << 20

// Plan divides limit bytes and says how many tokens go through the models at
// once. The error wraps ErrTooLittle and tells how much is needed.
func (e Evaluation) Plan(limit int64) (p *Plan, tokens int, err error) {
	p = &Plan{Limit: limit, Passes: 1}
	rest := int64(8*e.Tokens) + base
	rows := int64(min(e.Tokens, program.Batch(e.SeqLen)))
	var perToken, largest, second int64
	for _, m := range e.Models {
		perToken += 4 * int64(m.Hidden)
		head := 4 * int64(m.Vocab) * int64(m.Hidden)
		// Of several models one at a time is scored, beside the one it is compared with.
		second, largest = max(second, min(head, largest)), max(largest, head)
	}
	var experts int64
	for _, m := range e.Models {
		experts = max(experts, expert(m))
	}
	blocks := func(alone, byExpert bool) need {
		var most need
		for i, m := range e.Models {
			var sizes func(string) int64
			if i < len(e.Sizes) {
				sizes = e.Sizes[i]
			}
			var before int64
			for _, b := range m.Blocks {
				own := Packed(b, sizes)
				if byExpert && sizes == nil {
					own = weights(b, true) + 2*experts
				}
				n := need{weights: own + before}
				if !alone {
					before = own
				}
				computed, _ := b.Widths()
				n.batch = 4 * rows * int64(computed)
				most = worst(most, n)
			}
		}
		return most
	}
	scored := need{weights: largest + second, batch: int64(min(2, len(e.Models))) * (e.Logits + e.Logits/4)}
	room := usable(limit, largest/8) - rest - rows*perToken
	most := worst(blocks(false, false), scored)
	if most.sum() > room {
		most, p.Alone = worst(blocks(true, false), scored), true
	}
	if most.sum() > room && experts > 0 {
		most, p.ByExpert, p.Experts = worst(blocks(true, true), scored), true, experts
	}
	if most.sum() > room {
		most.batch += rows * perToken
		return nil, 0, tooLittle(most, rest, largest/8, limit)
	}
	batches := 1 + min(room-most.sum(), max(0, evalStreams-rows*perToken))/(rows*perToken)
	tokens = int(min(batches*rows, int64(e.Tokens)))
	p.Streams = int64(tokens) * perToken
	p.Parts = []Part{{"weights", most.weights}, {"streams", p.Streams}, {"batch", most.batch}, {"rest", rest}}
	// More would be garbage alone.
	if most := p.Peak() / 20 * 23; limit <= 0 || most < limit-limit/32 {
		p.held = most
	}
	return p, tokens, nil
}

// Packed is how many bytes a block's weights take if those layers stay packed that size gives a number of bytes; it may be nil.
func Packed(p *program.Program, size func(layer string) int64) int64 {
	n := p.Bytes()
	if size == nil {
		return n
	}
	for _, l := range p.Linears {
		if s := size(l.Name); s > 0 {
			n += s - 4*int64(l.Out)*int64(l.In)
		}
	}
	return n
}
