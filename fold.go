package lowbit

import (
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/gptq"
	"github.com/golowbit/lowbit/internal/fold"
	"github.com/golowbit/lowbit/internal/llama"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
	"github.com/golowbit/lowbit/tensor"
)

// Fold says when the scales of arms are folded into the norm or the linear
// before, instead of being stored with the layer.
type Fold uint8

const (
	// FoldAuto folds where the format cannot store the scales.
	FoldAuto Fold = iota
	// FoldOff stores all scales.
	FoldOff
	// FoldOn folds wherever it is possible.
	FoldOn
)

var foldNames = []string{"auto", "off", "on"}

func (f Fold) String() string {
	if int(f) < len(foldNames) {
		return foldNames[f]
	}
	return fmt.Sprintf("Fold(%d)", uint8(f))
}

// ParseFold reads "auto", "off" or "on".
func ParseFold(s string) (Fold, error) {
	if i := slices.Index(foldNames, s); i >= 0 {
		return Fold(i), nil
	}
	return 0, fmt.Errorf("fold %q: want auto, off or on", s)
}

// folding says which inputs of a block have scales that are folded.
type folding [llama.Inputs]bool

func (k folding) any() bool { return k != folding{} }

// without takes away what cannot be folded if the layer stays as it is. It
// reports whether that was anything.
func (k *folding) without(l llama.LinearInfo) bool {
	was := *k
	k[l.Input] = false
	if in, ok := fold.After(l.Role); ok {
		k[in] = false
	}
	return *k != was
}

// arms returns those that are left to choose from in a layer once the scales
// that are folded are chosen: the same without these scales.
func (k folding) arms(l llama.LinearInfo, arms []adadim.Arm) []adadim.Arm {
	in, before := fold.After(l.Role)
	var left []adadim.Arm
	for _, a := range arms {
		a.InputScale = a.InputScale && !k[l.Input]
		a.RowScale = a.RowScale && !(before && k[in])
		if !slices.Contains(left, a) {
			left = append(left, a)
		}
	}
	return left
}

// folding finds the inputs of a block whose scales will be folded: those with
// a scale among the arms, of whose layers none is to stay dense, and with
// FoldAuto only if the format cannot store the scale.
func (o *Options) folding(f layout.Format, infos []llama.LinearInfo, layers []layout.Layer) folding {
	var k folding
	if o.Fold == FoldOff {
		return k
	}
	for i, l := range infos {
		after, before := fold.After(l.Role)
		for _, a := range o.arms() {
			store := o.Fold != FoldOn && o.stores(f, layers[i], a)
			if a.InputScale && !store {
				k[l.Input] = true
			}
			if a.RowScale && before && !store {
				k[after] = true
			}
		}
	}
	for _, l := range infos {
		if o.skips(l.Name) {
			k.without(l)
		}
	}
	return k
}

// stores reports whether a format holds an arm's scale. Where it does not
// even hold the layer without the scale, in any group size that Fit may
// choose, the answer is yes: folding would not help.
func (o *Options) stores(f layout.Format, l layout.Layer, a adadim.Arm) bool {
	sizes := []int{o.Scheme.GroupSize}
	if o.Fit {
		for g := halved(o.Scheme.GroupSize, l.In); g >= smallestGroup; g /= 2 {
			sizes = append(sizes, g)
		}
	}
	for _, g := range sizes {
		p := &layerPlan{scheme: o.Scheme}
		p.scheme.GroupSize = g
		if p.admit(f, l, []adadim.Arm{{Axis: a.Axis}}, false) == nil {
			return p.admit(f, l, []adadim.Arm{a}, false) == nil
		}
	}
	return true
}

func (o *Options) skips(name string) bool {
	return slices.ContainsFunc(o.Skip, func(r *regexp.Regexp) bool { return r.MatchString(name) })
}

// The exponents that are tried: of the mean absolute inputs, and of the root
// mean square of the rows of the linear before. What is folded is chosen for
// several layers at once, so 1 is among them, which makes all channels alike.
var (
	inputPowers = []float64{0.25, 0.5, 0.75, 1}
	rowPowers   = []float64{0.5, 1}
)

// worthFolding is by how much the logarithm of a layer's error must fall, in
// the mean over the layers, for a scale to be folded under a method that
// makes up for its rounding: to three quarters of the error. On models with
// outlying channels it falls to half; where less is promised, the quantized
// model was found no better for it, or worse.
var worthFolding = math.Log(4. / 3)

// scaling is a candidate for what is folded.
type scaling struct {
	factors []float64
	note    string
}

// scalings lists the candidates for an input, after that of no scale.
func (r *blockRun) scalings(in llama.Input, cal *quant.Calibration) []scaling {
	var input, row bool
	for _, a := range r.arms() {
		input, row = input || a.InputScale, row || a.RowScale
	}
	var list []scaling
	powers := func(stat, powers []float64, note string) {
		for _, power := range powers {
			s := scaling{make([]float64, len(stat)), fmt.Sprintf(note, fold.Into(in), power)}
			for i, v := range stat {
				s.factors[i] = math.Pow(v, -power)
			}
			list = append(list, s)
		}
	}
	if input && cal.MeanAbs != nil {
		var stat []float64
		for _, v := range fold.Mean(r.cfg, in, cal.MeanAbs) {
			stat = append(stat, float64(v))
		}
		powers(stat, inputPowers, "input scale into %s, power %g")
	}
	if role, ok := fold.Before(in); ok && row {
		w := r.block.Linear(role).Weight
		stat := make([]float64, w.Rows)
		for i := range stat {
			for _, v := range w.Row(i) {
				stat[i] += float64(v) * float64(v)
			}
			stat[i] = math.Sqrt(stat[i] / float64(w.Cols))
		}
		powers(stat, rowPowers, "row scale of %s, power %g")
	}
	return list
}

// foldScales chooses the scales of the block that are folded, from what its
// linears see in full precision, and gives the writer the gains and biases
// that they change. Afterwards r.scales says what becomes of each linear.
//
// The scale of an input is chosen by the least relative error (as of
// adadim.ObjectiveRelative) among each layer's arms, in the geometric mean
// over the layers that it changes: q, k and v lose by different orders of
// magnitude, and none should be given up for another.
func (r *blockRun) foldScales(cals [llama.Inputs]*quant.Calibration) error {
	r.scales = fold.New(r.cfg, r.block)
	k := r.folds[r.block.Index]
	for in := range llama.Inputs {
		if !k[in] {
			continue
		}
		if err := r.foldInput(in, cals); err != nil {
			return err
		}
	}
	stored := r.scales.Stored()
	for _, name := range slices.Sorted(maps.Keys(stored)) {
		if err := r.out.PutDense(name, stored[name]); err != nil {
			return err
		}
	}
	return nil
}

func (r *blockRun) foldInput(in llama.Input, cals [llama.Inputs]*quant.Calibration) error {
	round := r.rounding(in)
	errs, err := r.newFoldErrors(in, cals)
	if err != nil {
		return err
	}
	least, err := errs.mean()
	if err != nil {
		return err
	}
	var chosen scaling
	if _, rtn := r.method().(quant.RTN); !rtn {
		least -= worthFolding
	}
	for _, s := range r.scalings(in, cals[in]) {
		if !r.scales.Set(in, s.factors, round) {
			continue
		}
		e, err := errs.mean()
		if err != nil {
			return err
		}
		if e < least {
			least, chosen = e, s
		}
	}
	r.scales.Set(in, chosen.factors, round)
	for _, l := range r.cfg.Linears(r.block.Index) {
		if l.Input == in {
			r.plan[l.Name].folded = chosen.note
		}
	}
	return nil
}

// rounding rounds to the type of the tensor that is stored with the factors
// of an input.
func (r *blockRun) rounding(in llama.Input) func(float32) float32 {
	name, ok := fold.Carrier(r.block, in)
	if ok {
		switch t, _ := r.src.DType(name); t {
		case safetensors.F16:
			return tensor.RoundF16
		case safetensors.BF16:
			return roundBF16
		}
	}
	return func(v float32) float32 { return v }
}

func roundBF16(v float32) float32 {
	var half [1]uint16
	tensor.F32ToBF16(half[:], []float32{v})
	return math.Float32frombits(uint32(half[0]) << 16)
}

// foldErrors computes the error that the factors of an input lead to.
type foldErrors struct {
	r      *blockRun
	in     llama.Input
	cal    *quant.Calibration // of the input, unscaled
	before *quant.Calibration // what the linear before reads, scaled; nil if it need not be looked at
	ic     map[llama.Role]float64
	method quant.Quantizer
}

func (r *blockRun) newFoldErrors(in llama.Input, cals [llama.Inputs]*quant.Calibration) (*foldErrors, error) {
	e := &foldErrors{r: r, in: in, cal: cals[in], ic: map[llama.Role]float64{}, method: r.foldMethod()}
	if role, ok := fold.Before(in); ok {
		// Scales of rows change nothing for groups inside a row.
		if _, ic := split(r.planOf(role).arms); len(ic) > 0 {
			e.before = r.scaled(fold.InputOf(role), cals[fold.InputOf(role)])
		}
	}
	for _, l := range r.cfg.Linears(r.block.Index) {
		if l.Input != in {
			continue
		}
		// Scales of columns change nothing for groups inside a column.
		e.ic[l.Role] = math.Inf(1)
		if _, ic := split(r.plan[l.Name].arms); len(ic) > 0 {
			least, err := e.least(l.Role, ic, e.cal)
			if err != nil {
				return nil, err
			}
			e.ic[l.Role] = least
		}
	}
	return e, nil
}

func (r *blockRun) planOf(role llama.Role) *layerPlan { return r.plan[r.block.Linear(role).Name] }

// split separates arms by axis.
func split(arms []adadim.Arm) (oc, ic []adadim.Arm) {
	for _, a := range arms {
		if a.Axis == quant.OC {
			oc = append(oc, a)
		} else {
			ic = append(ic, a)
		}
	}
	return oc, ic
}

// mean is the logarithm of the error with the factors that r.scales has now,
// in the mean over the layers.
func (e *foldErrors) mean() (float64, error) {
	const tiny = 1e-30 // a layer without inputs has no error
	var logs []float64
	cal := e.r.scaled(e.in, e.cal)
	for role := range llama.Roles {
		ic, reads := e.ic[role]
		if !reads {
			continue
		}
		least := ic
		if oc, _ := split(e.r.planOf(role).arms); len(oc) > 0 {
			v, err := e.least(role, oc, cal)
			if err != nil {
				return 0, err
			}
			least = min(least, v)
		}
		logs = append(logs, math.Log(max(least, tiny)))
	}
	if e.before != nil {
		role, _ := fold.Before(e.in)
		v, err := e.least(role, e.r.planOf(role).arms, e.before)
		if err != nil {
			return 0, err
		}
		logs = append(logs, math.Log(max(v, tiny)))
	}
	return quant.Sum(logs) / float64(len(logs)), nil
}

// foldMethod is what candidates are quantized with: if the search is to be
// by the method, the method without its refinement, which costs the most and
// comes after all choices.
func (r *blockRun) foldMethod() quant.Quantizer {
	if r.Search != adadim.SearchMethod {
		return quant.RTN{Workers: r.Workers}
	}
	m := r.method()
	if g, ok := m.(gptq.Quantizer); ok {
		g.Refine = gptq.Refine{}
		return g
	}
	return m
}

// least is the least relative error of a layer among arms.
func (e *foldErrors) least(role llama.Role, arms []adadim.Arm, cal *quant.Calibration) (float64, error) {
	l := e.r.block.Linear(role)
	q := adadim.Quantizer{
		Method: e.method, Arms: arms,
		Objective: adadim.ObjectiveRelative, Search: adadim.SearchMethod, Workers: e.r.Workers,
	}
	_, d, err := q.Choose(e.r.ctx, e.r.scales.Weight(role, l.Weight), e.r.planOf(role).scheme, cal)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", l.Name, err)
	}
	return d.Candidates[d.Chosen].Objective, nil
}

// scaled returns the calibration as it is with the folded scales.
func (r *blockRun) scaled(in llama.Input, cal *quant.Calibration) *quant.Calibration {
	f := r.scales.Input(in)
	if f == nil || cal == nil {
		return cal
	}
	return adadim.ScaleCalibration(cal, f)
}

// observeForFolding returns what the unquantized linears of the block see
// behind the quantized blocks, for those inputs that folding needs.
func (r *blockRun) observeForFolding() (cals [llama.Inputs]*quant.Calibration, err error) {
	k := r.folds[r.block.Index]
	var collectors [llama.Inputs]*quant.Collector
	for in := range llama.Inputs {
		role, ok := fold.Before(in)
		if !k[in] {
			continue
		}
		collectors[in] = quant.NewCollector(r.width(in), false)
		if src := fold.InputOf(role); ok && collectors[src] == nil {
			collectors[src] = quant.NewCollector(r.width(src), false)
		}
	}
	err = r.eachBatch(func(r0, r1 int) error {
		return r.fwd.Forward(r.block, rows(r.quantized, r0, r1).Clone(), r.text.seqLen, func(in llama.Input, x *tensor.Matrix) error {
			if c := collectors[in]; c != nil {
				c.Add(x, r.Workers)
			}
			return r.ctx.Err()
		})
	})
	for in, c := range collectors {
		if c != nil {
			cals[in] = c.Calibration()
		}
	}
	return cals, err
}
