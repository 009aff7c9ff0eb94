package allocation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/fitting"
	"github.com/golowbit/lowbit/checkpoint/formats/ggufmodel"
	"github.com/golowbit/lowbit/checkpoint/internal/vllm"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/blocks"
	"github.com/golowbit/lowbit/internal/curvature"
	"github.com/golowbit/lowbit/internal/walk"
	"github.com/golowbit/lowbit/quant"
)

// Outcome is how bits were shared out.
type Outcome struct {
	Point // of the layers that took part
	// Frontier is what other budgets would have given, from few bits to many.
	Frontier []Point `json:"frontier"`
	// Layers are those that took part, Given what each was given.
	Layers []Layer  `json:"layers"`
	Given  []string `json:"given"`
}

// Rules are the outcome as rules for single layers; see fitting.Rules.Given.
func (o *Outcome) Rules() (map[string]fitting.Rule, error) {
	rules := map[string]fitting.Rule{}
	for i, l := range o.Layers {
		var err error
		if rules[l.Name], err = fitting.GivenRule(o.Given[i]); err != nil {
			return nil, err
		}
	}
	return rules, nil
}

// everywhere is a candidate as a rule for all layers.
func everywhere(what string) (fitting.Rule, error) { return fitting.ParseRule("^: " + what) }

// points is how many of a frontier are kept.
const points = 65

// Budget is what there may be, and of what.
type Budget struct {
	Bits float64 // stored a weight, scales counted, of all layers that take part; 0 means no such budget
	Size int64   // bytes of the output's files of weights; 0 means no such budget
	// Candidates are what layers may get, each the part of a rule behind the colon, such
	// as "bits=3,group=64"; nil means a list that suits the format.
	Candidates []string
}

// Asked reports whether there is a budget.
func (b *Budget) Asked() bool { return b.Bits != 0 || b.Size != 0 }

// Validate reports what is wrong with the budget.
func (b *Budget) Validate() error {
	switch {
	case b.Bits != 0 && !(b.Bits > 0 && b.Bits <= 16):
		return fmt.Errorf("a budget of %g bits a weight, want up to 16", b.Bits)
	case b.Size < 0 || b.Bits != 0 && b.Size != 0:
		return errors.New("a budget is bits a weight or a size")
	case len(b.Candidates) > 0 && !b.Asked():
		return errors.New("candidates without a budget")
	}
	for _, what := range b.Candidates {
		if _, err := everywhere(what); err != nil {
			return fmt.Errorf("candidate: %w", err)
		}
	}
	return nil
}

// String tells the budget.
func (b *Budget) String() string {
	if b.Size > 0 {
		return fmt.Sprintf("%d bytes", b.Size)
	}
	return fmt.Sprintf("%g bits a weight", b.Bits)
}

// Work shares bits out among the layers of a model.
type Work struct {
	Budget Budget
	Format layout.Format
	Scheme quant.Scheme // that is asked for
	Group  bool         // its group size was given
	// Plan plans all layers by rules beside the user's: more of them, and for single
	// layers. What does not fit is refused in the plan; an error that Never matches makes
	// the rules no candidate.
	Plan  func(more []fitting.Rule, given map[string]fitting.Rule) (*fitting.Plan, error)
	Never func(error) bool
	// Size is what the output takes as it is planned last.
	Size func() (int64, error)
	// Walk is a walk through the unquantized model with room for the statistics of so many
	// bytes at a time; done ends it.
	Walk    func() (w *walk.Walk, statistics int64, done func(), err error)
	Windows [][]int32
	Step    func(what string, done, total int)
	// Measurer has what measuring needs, but for Candidates, Wants, With and Target.
	Measurer Measurer
}

// Do measures what candidates cost the layers that no rule is about, and finds the best
// mixture. All layers are planned by it at the end.
func (w *Work) Do(ctx context.Context) (*Outcome, error) {
	m := w.Measurer
	given, err := w.Plan(nil, nil)
	if err != nil {
		return nil, err
	}
	m.Wants = func(name string) bool { return !given.Layer(name).Dense && !given.Ruled(name) }
	m.With = together(w.Format)
	m.Target = cmp.Or(w.Budget.Bits, 4)
	if !slices.ContainsFunc(given.Layers, func(l *fitting.Layer) bool { return m.Wants(l.Name) }) {
		return nil, errors.New("a budget, and rules for every layer that is quantized")
	}
	names := w.Budget.Candidates
	if names == nil {
		names = candidates(w.Format, w.Scheme, w.Group)
	}
	for _, what := range names {
		rule, err := everywhere(what)
		if err != nil {
			return nil, err
		}
		// A layer that does not fit has no such option; the mixture is checked as a whole.
		if p, err := w.Plan([]fitting.Rule{rule}, nil); err == nil || !w.Never(err) {
			m.Candidates = append(m.Candidates, Candidate{What: what, Plan: p})
		}
	}
	if !slices.ContainsFunc(m.Candidates, func(c Candidate) bool { return c.What != dense }) {
		return nil, fmt.Errorf("none of the candidates %v suits format %s", names, w.Format.Name())
	}
	if err := w.measure(ctx, &m, given); err != nil {
		return nil, err
	}
	return within(m.Layers(), &w.Budget, w.size)
}

// measure takes the text through the unquantized model, and then through it and back with
// the errors of the references, or on from each of them where no gradient goes back.
func (w *Work) measure(ctx context.Context, m *Measurer, given *fitting.Plan) error {
	way, statistics, done, err := w.Walk()
	if err != nil {
		return err
	}
	defer done()
	m.Measured = func(done int) { w.Step("measuring", done, len(given.Layers)) }
	err = blocks.Run(ctx, way, w.Windows, m, blocks.Options{
		Full: true, Begin: func(int) {}, Folds: make([][]bool, len(given.Folds)), Statistics: statistics, Workers: m.Workers,
	})
	if err != nil {
		return err
	}
	var costs map[string]float64
	step := func(done, total int) { w.Step("weighing", done, total) }
	if walk.Reversible(way.Model) == nil {
		costs, err = curvature.Along(ctx, way, w.Windows, m.Wants, m.errorOf, step)
	} else {
		costs, err = curvature.Apart(ctx, way, w.Windows, m.Wants, m.errorOf, m.share, step)
	}
	m.weigh(costs)
	return err
}

// size plans by rules, and tells the output's size where that matters.
func (w *Work) size(given map[string]fitting.Rule) (int64, error) {
	p, err := w.Plan(nil, given)
	if err != nil || w.Budget.Size == 0 {
		return 0, err
	}
	n, err := w.Size()
	return n + extra(p), err
}

// within takes the best mixture of the budget. plan plans with rules for all layers, and
// tells the output's size.
func within(layers []Layer, b *Budget, plan func(map[string]fitting.Rule) (int64, error)) (*Outcome, error) {
	try := func(bits float64) (*Outcome, int64, error) {
		o, err := mixed(layers, bits)
		if err != nil {
			return nil, 0, err
		}
		rules, err := o.Rules()
		if err != nil {
			return nil, 0, err
		}
		n, err := plan(rules)
		return o, n, err
	}
	if b.Size == 0 {
		o, _, err := try(b.Bits)
		return o, err
	}
	least, most := smallest(layers), 16.0
	best, n, err := try(least)
	if err != nil {
		return nil, err
	}
	if n > b.Size {
		return nil, fmt.Errorf("%w: with the smallest schemes the output takes %d bytes, %d are allowed", ErrBudget, n, b.Size)
	}
	for range 24 { // bits a weight to within a millionth
		bits := (least + most) / 2
		o, n, err := try(bits)
		switch {
		case err != nil:
			return nil, err
		case n <= b.Size:
			best, least = o, bits
		default:
			most = bits
		}
	}
	_, _, err = try(best.BitsPerWeight) // that is what stays
	return best, err
}

// mixed is the best mixture of so many bits a weight.
func mixed(layers []Layer, bits float64) (*Outcome, error) {
	m, frontier, err := Mix(layers, bits)
	if err != nil {
		return nil, err
	}
	o := &Outcome{Point: m.Point, Frontier: thin(frontier, points), Layers: layers}
	for i, l := range layers {
		o.Given = append(o.Given, l.Options[m.Choice[i]].What)
	}
	return o, nil
}

// smallest is the bits a weight of the mixture with the fewest.
func smallest(layers []Layer) float64 {
	units, err := unite(layers)
	if err != nil {
		return 0 // Mix says it
	}
	var bits, weights int64
	for _, u := range units {
		bits += u.options[0].bits
	}
	for _, l := range layers {
		weights += l.Weights
	}
	// Bits are whole: half of one makes up for the division.
	return (float64(bits) + 0.5) / float64(weights)
}

// thin leaves at most n of the points, the first and the last among them.
func thin(points []Point, n int) []Point {
	if len(points) <= n {
		return points
	}
	thin := make([]Point, n)
	for i := range thin {
		thin[i] = points[i*(len(points)-1)/(n-1)]
	}
	return thin
}

// candidates are schemes that layers may be given in a format where s is asked for: 2 to 8
// bits, in groups as asked for and, unless these were given, in others; in GGUF its
// types; and dense.
func candidates(f layout.Format, s quant.Scheme, group bool) []string {
	var list []string
	if _, gguf := f.(ggufmodel.Format); gguf {
		for _, t := range []string{"Q2_K", "Q3_K", "IQ4_XS", "Q4_K", "Q5_K", "Q6_K", "Q8_0"} {
			list = append(list, "type="+t)
		}
		return append(list, dense)
	}
	groups := []int{s.GroupSize}
	if !group {
		for _, g := range []int{32, 64, 128} {
			if g != s.GroupSize {
				groups = append(groups, g)
			}
		}
	}
	for _, bits := range []int{2, 3, 4, 5, 6, 8} {
		for _, g := range groups {
			list = append(list, fmt.Sprintf("bits=%d,group=%d", bits, g))
		}
	}
	return append(list, dense)
}

// together names what layers of a format must share their scheme with, "" if nothing: vLLM
// fuses linears that read the same.
func together(f layout.Format) func(name string) string {
	typical := layout.Layer{Name: "l", Out: 1024, In: 1024, Scheme: quant.Scheme{Bits: 4, GroupSize: 128, Symmetric: f.Name() != "awq", ScaleType: quant.F16}}
	fuses := slices.ContainsFunc(checkpoint.Engines(f, []layout.Layer{typical}), func(n layout.Note) bool {
		return n.Engine == layout.EngineVLLM && n.Accepted
	})
	return func(name string) string {
		if !fuses {
			return ""
		}
		fused, _, _ := vllm.FusedWith(name)
		return fused
	}
}

// extra is how many bytes layers take at most beyond what is planned for the first of their
// arms: scales.
func extra(p *fitting.Plan) (bytes int64) {
	for _, l := range p.Layers {
		if !l.Dense {
			bytes += (scales(l) - scaleBits(l.Arms[0], l.Out, l.In)) / 8
		}
	}
	return bytes
}
