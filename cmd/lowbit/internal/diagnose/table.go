package diagnose

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
)

// Print writes the tables for people.
func (r *Result) Print(w io.Writer) error {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	row := func(cells ...string) { fmt.Fprintln(t, strings.Join(cells, "\t")) }
	row("text", "tokens", "separators", "‖x‖∞", "at", "kurtosis", "most", "at", "stream ‖x‖∞", "kurtosis", "outlier features", "idle heads")
	for i := range r.Texts {
		x := &r.Texts[i]
		s := x.Summary()
		row(x.Name, strconv.Itoa(x.Windows*x.Window), fmt.Sprintf("%.0f %%", 100*x.Separators), number(s.Largest), s.LargestAt, number(s.Kurtosis), number(s.MostKurtosis), s.MostKurtosisAt,
			number(s.Stream), number(s.StreamKurtosis), fmt.Sprintf("%d of %d", s.Features, x.Features.Width), fmt.Sprintf("%d of %d", s.IdleHeads, s.Heads))
	}
	_ = t.Flush() // into memory
	if len(r.Texts) > 1 {
		fmt.Fprintf(&b, "outlier features of all texts: %d\n", r.Common())
	}
	for i := range r.Texts {
		r.Texts[i].printHeads(&b)
	}
	if r.Quantized != nil {
		r.printQuantized(&b)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// printHeads lists the idlest heads.
func (s *Seen) printHeads(b *strings.Builder) {
	const most = 6
	if len(s.IdleHeads) == 0 {
		return
	}
	fmt.Fprintf(b, "idle heads on %s:", s.Name)
	for i, h := range s.IdleHeads {
		if i == most {
			fmt.Fprintf(b, ", and %d more", len(s.IdleHeads)-most)
			break
		}
		if i > 0 {
			b.WriteString(",")
		}
		fmt.Fprintf(b, " %d.%d (%.0f %% first", h.Block, h.Head, 100*h.First)
		if h.Separators >= 0.005 {
			fmt.Fprintf(b, ", %.0f %% separators", 100*h.Separators)
		}
		if h.Nothing >= 0.005 {
			fmt.Fprintf(b, ", %.0f %% nothing", 100*h.Nothing)
		}
		b.WriteString(")")
	}
	b.WriteString("\n")
}

func (r *Result) printQuantized(b *strings.Builder) {
	q := r.Quantized
	fmt.Fprintf(b, "\n%s, %d bits: perplexity on what is held out of\n", q.Method, q.Bits)
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	row := func(cells ...string) { fmt.Fprintln(t, strings.Join(cells, "\t")) }
	head, full := []string{"quantized on"}, []string{"(not quantized)"}
	for i := range r.Texts {
		head, full = append(head, r.Texts[i].Name), append(full, fmt.Sprintf("%.4g", q.Full[i]))
	}
	row(append(head, "in ic", "moved", "margins apart")...)
	row(full...)
	for i := range r.Texts {
		cells := []string{r.Texts[i].Name}
		for _, v := range q.Perplexities[i] {
			cells = append(cells, fmt.Sprintf("%.4g", v))
		}
		row(append(cells, fmt.Sprintf("%d of %d", q.IC(i), len(q.Layers)), strconv.Itoa(q.Moved[i]), fmt.Sprintf("%.3f", q.Apart(i)))...)
	}
	_ = t.Flush()
}

func number(v float64) string { return strconv.FormatFloat(v, 'g', 3, 64) }
