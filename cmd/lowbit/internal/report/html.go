package report

import (
	"bytes"
	"cmp"
	"embed"
	"fmt"
	"html/template"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/golowbit/lowbit"
	"github.com/golowbit/lowbit/internal/memory"
	"github.com/golowbit/lowbit/internal/picture"
)

//go:embed *.tmpl
var files embed.FS

var pages = template.Must(template.ParseFS(files, "*.tmpl"))

// page is what is shown.
type page struct {
	style
	Title, Path, Lowbit string
	Facts               []fact
	Warnings            []Warning
	Maps                []chart
	Curves              []figure // losses by depth
	Why                 string   // in place of pictures that there are none of
	Groups              []group
	Roles               []roleRow
	Tokens              string
	Phases              []bar
	Memory              []fact
	Settings            []lowbit.Setting
	Notes               []string
	Engines             []string
	Layers              []layerRow
	Measured            bool // this is about a quantization, and not a model alone
}

type fact struct{ Name, Value string }

type figure struct {
	Title, Note string
	SVG         template.HTML
}

// group is layers that are drawn, under one heading.
type group struct {
	Title  string
	Open   bool
	Layers []portrait
}

type portrait struct {
	Name, Note string
	Charts     []template.HTML
}

type roleRow struct {
	Role
	Share float64 // of all bytes, in percent
	Size  string
	Loss  string
}

type bar struct {
	Name, Value string
	Percent     float64
}

type layerRow struct {
	Name, Shape, Arm, Class, Bits, Loss, Margin, Tokens, Far, Notes string
}

// HTML is the report for people: one page that needs nothing else.
func (r *Report) HTML() ([]byte, error) {
	p := &page{
		Title: filepath.Base(r.Model.Path), Path: r.Output, Lowbit: r.Lowbit, Measured: true,
		Facts: r.facts(), Warnings: r.Warnings, Settings: r.Settings, Notes: r.Notes, Roles: roleRows(r.Roles),
		Maps: []chart{r.armMap()}, Curves: curves(r.Layers), Tokens: r.tokens(), Layers: layerRows(r.Layers),
	}
	p.Groups, p.Why = r.portraits()
	p.Phases, p.Memory = r.spent()
	for _, n := range r.Engines {
		p.Engines = append(p.Engines, fmt.Sprint(n))
	}
	return p.write()
}

func (p *page) write() ([]byte, error) { return write("page.tmpl", p) }

// write makes a page by its template.
func write(name string, p any) ([]byte, error) {
	var b bytes.Buffer
	if err := pages.ExecuteTemplate(&b, name, p); err != nil {
		return nil, fmt.Errorf("the page cannot be made: %w", err)
	}
	return b.Bytes(), nil
}

// facts are the summary.
func (r *Report) facts() []fact {
	all := modelFacts(r.Model)
	add := func(name, format string, args ...any) { all = append(all, fact{name, fmt.Sprintf(format, args...)}) }
	add("format", "%s", r.Format)
	for _, s := range r.Settings {
		if s.Name == "method" || s.Name == "preset" {
			add(s.Name, "%s", strings.TrimSuffix(s.Text(), ".Quantizer"))
		}
	}
	add("bits a weight", "%.3f in quantized layers", r.BitsPerWeight)
	smaller := ""
	if r.BytesAfter > 0 {
		smaller = fmt.Sprintf(" (%.1f times smaller)", float64(r.BytesBefore)/float64(r.BytesAfter))
	}
	add("files of weights", "%s → %s%s", memory.Decimal(r.BytesBefore), memory.Decimal(r.BytesAfter), smaller)
	if e := r.Evaluation; e != nil && e.Against != nil {
		add("perplexity", "%.4f → %.4f", *e.Against, e.Perplexity)
		add("KL divergence", "%.4f nats a token, same top token %.1f %%", *e.KL, 100*e.SameTop)
		add("measured on", "%d tokens in windows of %d", e.Tokens, e.Window)
	}
	if t := r.Tuned; t != nil {
		add("tuned", "%v: divergence %.4f → %.4f on the text held out", t.What, t.Before, t.After)
	}
	if a := r.Allocation; a != nil {
		add("bits shared out", "%.3f a weight, expected to cost %.3g nats a token", a.BitsPerWeight, a.Loss)
	}
	if r.Tokens > 0 {
		add("calibration", "%d tokens", r.Tokens)
	}
	if r.Seconds > 0 {
		add("time", "%s", seconds(r.Seconds))
	}
	if r.PeakMemory > 0 {
		add("memory", "%s at most", memory.Size(r.PeakMemory))
	}
	return all
}

func modelFacts(m Model) []fact {
	all := []fact{{"model", m.Path}}
	if m.Architecture != "" {
		all = append(all, fact{"architecture", fmt.Sprintf("%s, %d blocks of width %d", m.Architecture, m.Blocks, m.Hidden)})
	}
	return append(all, fact{"parameters", count(m.Parameters)})
}

// tokens says what the layers have seen.
func (r *Report) tokens() string {
	if r.Tokens == 0 {
		return "No calibration text: layers were quantized by their weights alone, or by an importance matrix."
	}
	text := fmt.Sprintf("%d tokens of calibration text went through every layer", r.Tokens)
	var routed []int
	none := 0
	for _, l := range r.Layers {
		if l.Tokens != nil {
			routed = append(routed, *l.Tokens)
			if *l.Tokens == 0 {
				none++
			}
		}
	}
	if len(routed) == 0 {
		return text + "."
	}
	slices.Sort(routed)
	return text + fmt.Sprintf(" that is of no expert. To layers of experts %d to %d were routed, %d in the median; to %d of %d none.",
		routed[0], routed[len(routed)-1], routed[len(routed)/2], none, len(routed))
}

func (r *Report) spent() (phases []bar, plan []fact) {
	var most float64
	for _, p := range r.Phases {
		most = max(most, p.Seconds)
	}
	for _, p := range r.Phases {
		if p.Seconds > 0 {
			phases = append(phases, bar{p.Name, seconds(p.Seconds), 100 * p.Seconds / most})
		}
	}
	if m := r.Memory; m != nil {
		for _, p := range m.Parts {
			if p.Bytes > 0 {
				plan = append(plan, fact{p.Name, memory.Size(p.Bytes)})
			}
		}
		plan = append(plan, fact{"together, as planned", memory.Size(m.Work())})
		for _, p := range m.Moments {
			plan = append(plan, fact{p.Name + ", by itself", memory.Size(p.Bytes)})
		}
		if m.InFile > 0 {
			plan = append(plan, fact{"in a file", memory.Size(m.InFile)})
		}
	}
	if r.PeakMemory > 0 {
		plan = append(plan, fact{"the process had at most", memory.Size(r.PeakMemory)})
	}
	return phases, plan
}

// curves are losses by depth: of all layers, and of each role.
func curves(layers []lowbit.LayerReport) []figure {
	const most = 16 // roles
	blocks := 0
	var roles []string
	for _, l := range layers {
		if p := placeOf(l.Name); p.block >= 0 && l.Loss != nil {
			blocks = max(blocks, p.block+1)
			if !slices.Contains(roles, p.role) {
				roles = append(roles, p.role)
			}
		}
	}
	if blocks < 2 {
		return nil
	}
	var all []figure
	for _, role := range append([]string{""}, roles[:min(len(roles), most)]...) {
		lines := armCurves(layers, role, blocks)
		f := figure{Title: role, SVG: depthChart("loss by block, "+role, lines)}
		if role == "" {
			f.Title, f.Note = "all layers", "mean over the layers of a block"
		}
		if f.SVG != "" {
			all = append(all, f)
		}
	}
	return all
}

// armClasses are the classes of arms in pictures, in the order in which they are drawn.
var armClasses = []struct{ arm, class string }{{"oc", "a-oc"}, {"oc+in", "a-ocin"}, {"ic", "a-ic"}, {"ic+row", "a-icrow"}}

// armCurves are the losses of every arm that was tried in layers of a role, "" for all, and of
// what became of them: means over the layers of a block.
func armCurves(layers []lowbit.LayerReport, role string, blocks int) []curve {
	sums := map[string][]float64{}
	counts := map[string][]float64{}
	add := func(name string, block int, v float64) {
		if sums[name] == nil {
			sums[name], counts[name] = make([]float64, blocks), make([]float64, blocks)
		}
		sums[name][block] += v
		counts[name][block]++
	}
	const result = "result"
	for _, l := range layers {
		p := placeOf(l.Name)
		if p.block < 0 || l.Loss == nil || role != "" && p.role != role {
			continue
		}
		add(result, p.block, *l.Loss)
		if d := l.Decision; d != nil && d.OutputSize > 0 {
			for _, c := range d.Candidates {
				if c.Measured {
					add(c.Arm.String(), p.block, c.Loss/d.OutputSize)
				}
			}
		}
	}
	var all []curve
	for _, a := range append(slices.Clone(armClasses), struct{ arm, class string }{result, "a-result"}) {
		if sums[a.arm] == nil {
			continue
		}
		values := make([]float64, blocks)
		for b := range values {
			values[b] = sums[a.arm][b] / counts[a.arm][b] // NaN without any
		}
		all = append(all, curve{a.class, a.arm, values})
	}
	return all
}

// portraits are the layers that are drawn: of each role the one that loses most, or has the
// largest outlier.
func (r *Report) portraits() (groups []group, why string) {
	const most = 8
	best := map[string]*lowbit.LayerReport{}
	var roles []string
	known := 0
	for i := range r.Layers {
		l := &r.Layers[i]
		if l.Channels == nil {
			continue
		}
		known++
		role := placeOf(l.Name).role
		switch was := best[role]; {
		case was == nil:
			roles = append(roles, role)
			best[role] = l
		case standsOut(l) > standsOut(was):
			best[role] = l
		}
	}
	if known == 0 {
		return nil, "Nothing was collected: the output was complete already, or the layers were finished by an earlier run without --report."
	}
	g := group{Open: true}
	for _, role := range roles[:min(len(roles), most)] {
		g.Layers = append(g.Layers, portraitOf(best[role].Name, best[role].Arm, best[role].Loss, best[role].Channels))
	}
	return []group{g}, ""
}

// standsOut is how much a layer is worth a look among those of its role.
func standsOut(l *lowbit.LayerReport) float64 {
	if l.Loss != nil {
		return *l.Loss
	}
	return farthest(l.Channels)
}

// farthest is how many times the median the largest channel of the inputs is: of activations, or
// where they are not known of weights.
func farthest(c *lowbit.Channels) float64 {
	s := c.Inputs.Weight
	if c.Inputs.Activation != nil {
		s = c.Inputs.Activation
	}
	if s == nil || s.Median <= 0 || len(s.Max) == 0 {
		return 0
	}
	return slices.Max(s.Max) / s.Median
}

func portraitOf(name, arm string, loss *float64, c *lowbit.Channels) portrait {
	p := portrait{Name: name, Note: arm}
	if loss != nil {
		p.Note = fmt.Sprintf("%s, loss %s", arm, sig(*loss))
	}
	for _, s := range []struct {
		label, class string
		series       *picture.Series
		channels     int
	}{
		{"activations by input", "c-act", c.Inputs.Activation, c.Inputs.Channels},
		{"weights by input", "c-weight", c.Inputs.Weight, c.Inputs.Channels},
		{"weights by output", "c-weight", c.Outputs.Weight, c.Outputs.Channels},
		{"loss by input", "c-loss", c.Inputs.Loss, c.Inputs.Channels},
		{"loss by output", "c-loss", c.Outputs.Loss, c.Outputs.Channels},
	} {
		if s.series != nil {
			p.Charts = append(p.Charts, channelChart(s.label, s.class, s.series, s.channels))
		}
	}
	return p
}

func roleRows(roles []Role) []roleRow {
	var all int64
	for _, r := range roles {
		all += r.Bytes
	}
	rows := make([]roleRow, len(roles))
	for i, r := range roles {
		rows[i] = roleRow{Role: r, Share: 100 * float64(r.Bytes) / float64(max(1, all)), Size: memory.Decimal(r.Bytes), Loss: measured(r.Loss, "%.3g")}
	}
	return rows
}

func layerRows(layers []lowbit.LayerReport) []layerRow {
	rows := make([]layerRow, len(layers))
	for i, l := range layers {
		row := layerRow{Name: l.Name, Shape: fmt.Sprintf("%d × %d", l.Out, l.In), Notes: strings.Join(l.Notes, "; ")}
		if l.Dense {
			row.Arm, row.Class = "dense", "dense"
			rows[i] = row
			continue
		}
		row.Arm, row.Class = l.Arm, axisOf(l.Arm)
		row.Bits = fmt.Sprintf("%.3f", l.Bits)
		row.Loss, row.Margin = measured(l.Loss, "%.3g"), measured(l.Margin, "%+.3f")
		if l.Tokens != nil {
			row.Tokens = fmt.Sprint(*l.Tokens)
		}
		if l.Channels != nil {
			row.Far = fmt.Sprintf("%.1f", farthest(l.Channels))
		}
		rows[i] = row
	}
	return rows
}

func measured(v *float64, format string) string {
	if v == nil {
		return ""
	}
	return fmt.Sprintf(format, *v)
}

// axisOf is the axis of an arm.
func axisOf(arm string) string {
	axis, _, _ := strings.Cut(arm, "+")
	return axis
}

func seconds(s float64) string {
	if s < 100 {
		return fmt.Sprintf("%.1f s", s)
	}
	return time.Duration(s * float64(time.Second)).Round(time.Second).String()
}

func count(n int64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.2f billion", float64(n)/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.1f million", float64(n)/1e6)
	}
	return fmt.Sprint(n)
}

// chart is a table of cells, shaded: blocks by roles.
type chart struct {
	Title, Note string
	Legend      []swatch
	Columns     []column
	Rows        []mapRow
}

type swatch struct{ Class, Text string }

type column struct{ Name, Title string }

type mapRow struct {
	Name  string
	Cells []cell
}

type cell struct{ Class, Text, Title string }

// steps of shade.
const steps = 8

// newChart lays layers out; fill makes a cell of those of one place. Layers outside of blocks
// come behind.
func newChart(names []string, fill func(layers []int) cell) chart {
	var c chart
	var roles []string
	blocks := map[int]map[string][]int{}
	for i, name := range names {
		p := placeOf(name)
		if p.block < 0 {
			continue
		}
		if !slices.Contains(roles, p.role) {
			roles = append(roles, p.role)
		}
		if blocks[p.block] == nil {
			blocks[p.block] = map[string][]int{}
		}
		blocks[p.block][p.role] = append(blocks[p.block][p.role], i)
	}
	short := map[string]int{}
	last := func(role string) string { return role[strings.LastIndexByte(role, '.')+1:] }
	for _, r := range roles {
		short[last(r)]++
	}
	common := "_proj" // what all are called is no news
	for _, r := range roles {
		if !strings.HasSuffix(r, common) {
			common = ""
		}
	}
	for _, r := range roles {
		name := last(r)
		if short[name] > 1 {
			name = r
		}
		c.Columns = append(c.Columns, column{strings.TrimSuffix(name, common), r})
	}
	var numbers []int
	for b := range blocks {
		numbers = append(numbers, b)
	}
	slices.SortFunc(numbers, cmp.Compare)
	for _, b := range numbers {
		row := mapRow{Name: fmt.Sprint(b)}
		for _, r := range roles {
			x := cell{Class: "none"}
			if layers := blocks[b][r]; len(layers) > 0 {
				x = fill(layers)
			}
			row.Cells = append(row.Cells, x)
		}
		c.Rows = append(c.Rows, row)
	}
	return c
}

// armMap shows what was chosen where, and how clearly.
func (r *Report) armMap() chart {
	names := make([]string, len(r.Layers))
	for i, l := range r.Layers {
		names[i] = l.Name
	}
	c := newChart(names, func(layers []int) cell {
		if len(layers) == 1 {
			return armCell(&r.Layers[layers[0]])
		}
		return r.armCells(layers)
	})
	c.Title = "Axis and arm of every layer"
	c.Note = "The deeper the shade, the more the other axis would have lost: the deepest is a factor of e and more. Point at a cell for figures."
	c.Legend = []swatch{{"oc s6", "oc: groups inside output channels"}, {"ic s6", "ic: groups inside input channels"}, {"oc s0", "no other axis was tried, or it is as good"}, {"dense", "dense: left as it was"}}
	return c
}

// shade is the step for a margin.
func shade(margin *float64) int {
	if margin == nil {
		return 0
	}
	return min(steps-1, int(math.Abs(*margin)*steps))
}

func armCell(l *lowbit.LayerReport) cell {
	if l.Dense {
		return cell{"dense", "–", l.Name + ": left as it was. " + strings.Join(l.Notes, "; ")}
	}
	x := cell{fmt.Sprintf("%s s%d", axisOf(l.Arm), shade(l.Margin)), l.Arm, fmt.Sprintf("%s: %s, %.3f bits", l.Name, l.Arm, l.Bits)}
	if l.Loss != nil {
		x.Title += ", loss " + sig(*l.Loss)
	}
	if l.Margin != nil {
		x.Title += fmt.Sprintf(", margin %+.3f", *l.Margin)
	}
	return x
}

// armCells sums up experts: the arm that most have, and the mean of their margins.
func (r *Report) armCells(layers []int) cell {
	count := map[string]int{}
	var margins float64
	known := 0
	for _, i := range layers {
		l := &r.Layers[i]
		arm := l.Arm
		if l.Dense {
			arm = "dense"
		}
		count[arm]++
		if l.Margin != nil {
			margins += *l.Margin
			known++
		}
	}
	var arms []string
	for a := range count {
		arms = append(arms, a)
	}
	slices.SortFunc(arms, func(a, b string) int { return cmp.Or(cmp.Compare(count[b], count[a]), cmp.Compare(a, b)) })
	var parts []string
	for _, a := range arms {
		parts = append(parts, fmt.Sprintf("%d %s", count[a], a))
	}
	var margin *float64
	if known > 0 {
		m := margins / float64(known)
		margin = &m
	}
	class := arms[0]
	if class != "dense" {
		class = fmt.Sprintf("%s s%d", axisOf(arms[0]), shade(margin))
	}
	return cell{class, fmt.Sprintf("%s %d/%d", arms[0], count[arms[0]], len(layers)), fmt.Sprintf("%d layers: %s", len(layers), strings.Join(parts, ", "))}
}

// style is what templates ask for colours.
type style struct{}

// Lines are the colours of lines of texts, in their order.
func (style) Lines() []string { return []string{"oc", "ic", "act", "weight", "loss", "result"} }

// Shades are the opacities of cells, by step.
func (style) Shades() []string {
	all := make([]string, steps)
	for i := range all {
		all[i] = fmt.Sprintf("%.2f", 0.14+0.6*float64(i)/(steps-1))
	}
	return all
}

// Arms are the classes of curves.
func (*page) Arms() []swatch {
	var all []swatch
	for _, a := range armClasses {
		all = append(all, swatch{a.class, a.arm})
	}
	return append(all, swatch{"a-result", "result"})
}

// Far is what counts as an outlier.
func (*page) Far() int { return picture.Far }
