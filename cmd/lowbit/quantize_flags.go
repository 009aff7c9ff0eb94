package main

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/golowbit/lowbit"
	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/fitting"
	"github.com/golowbit/lowbit/checkpoint/formats/ggufmodel"
	"github.com/golowbit/lowbit/checkpoint/formats/mlx"
	"github.com/golowbit/lowbit/checkpoint/generation"
	"github.com/golowbit/lowbit/cmd/lowbit/internal/inputs"
	"github.com/golowbit/lowbit/cmd/lowbit/internal/methods"
	"github.com/golowbit/lowbit/gptq"
	"github.com/golowbit/lowbit/internal/disk"
	"github.com/golowbit/lowbit/internal/memory"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/quant/llmint8"
	"github.com/golowbit/lowbit/quant/olive"
)

// quantizeFlags are the flags of quantize. What they say about the result
// goes into o as they are read; what is left is about this run of the command.
type quantizeFlags struct {
	o lowbit.Options

	format      formatFlags
	method      methods.Flags
	calib, eval textFlags
	calibIDs    string
	self        generation.Self
	prompts     string // file of those of self
	rules       []lowbit.Rule
	printConfig bool
	json, quiet bool
	report      bool
}

// quantizeRule is how flags combine, for the help.
const quantizeRule = `Settings come from three places. --preset (default best) sets method, clip, arms,
objective, search, inputs, correction and refinement; --target sets format, axis, bits,
group size and symmetry; every other flag overrides its one setting and leaves the rest.
--method alone stands for --preset plain: the method as it is. --print-config shows what
comes out, for every layer and with reasons, without doing any work.

--method rtn quantizes any folder of safetensors files: where no decoder knows the
architecture, linear layers are found by name and shape. Embeddings, heads, norms,
routers, convolutions, state parameters, vision and audio towers stay dense unless
--include says otherwise; experts that lie in one tensor become one layer each.

Groups are runs of weights that share a scale. They lie inside output channels (rows of
the weight: axis oc) or inside input channels (columns: axis ic; strided means that such
a group takes every n-th output instead of neighbours). An arm is an axis with or without
one more scale outside the groups: oc, oc+in (a scale per input), ic, ic+row (a scale per
output row). AdaDim chooses among the arms, layer by layer.`

func (f *quantizeFlags) register(s *pflag.FlagSet) {
	s.SortFlags = false
	s.StringVarP(&f.o.Output, "output", "o", "", "folder (or file, for gguf) to write; must not exist")
	s.StringVar(&f.o.Base, "base", "", "`model` that a LoRA adapter given as MODEL is merged into (default: what its configuration names)")
	s.BoolVar(&f.printConfig, "print-config", false, "print what would be done and why, and do nothing")

	option(s, "target", "`engine` to write for; sets format, axis, bits, group size and symmetry: "+strings.Join(checkpoint.EngineNames(), ", "), known(checkpoint.EngineNames(), "engine"), func(v string) { f.o.Target = v })
	option(s, "preset", "how hard to try: `name` is plain, paper, fast or best (default best, or plain with --method)", lowbit.ParsePreset, func(v lowbit.Preset) { f.o.Preset = v })

	f.registerFormat(s)
	f.registerGrid(s)
	f.registerMethod(s)
	f.registerText(s)

	option(s, "skip", "leave layers whose name matches this regular `expression` dense (repeatable)", regexp.Compile, func(r *regexp.Regexp) { f.o.Skip = append(f.o.Skip, r) })
	option(s, "include", "with --method rtn: quantize tensors whose name matches this regular `expression` although their names are those of embeddings, heads, routers and the like (repeatable)", regexp.Compile, func(r *regexp.Regexp) { f.o.Include = append(f.o.Include, r) })
	option(s, "exclude", "leave layers whose name matches this regular `expression` dense, whatever --include says (repeatable)", regexp.Compile, func(r *regexp.Regexp) { f.o.Exclude = append(f.o.Exclude, r) })
	option(s, "rule", "change what is asked of the layers whose name matches, such as `'EXPRESSION: bits=8,group=32'`: dense, type=NAME (of --gguf-type's blocks), bits, group, sym, axis (oc or ic), method (gptq or rtn); the first that matches counts (repeatable)", fitting.ParseRule, func(r lowbit.Rule) { f.o.Rules = append(f.o.Rules, r) })
	option(s, "rules", "YAML or JSON `file` with a list of such rules, each with match and the same keys; they come after those of --rule", inputs.Rules, func(r []lowbit.Rule) { f.rules = append(f.rules, r...) })
	option(s, "target-bits", "share bits out among the layers, `so many` a weight in all, scales counted: what candidates cost each layer is measured first, by the curvature of the model's loss; layers that a rule is about take no part", parseFloat, func(v float64) { f.o.Budget.Bits = v })
	option(s, "target-size", "share bits out so that the output's weights take at most this `size`, such as 4GiB", memory.ParseSize, func(n int64) { f.o.Budget.Size = n })
	s.StringArrayVar(&f.o.Budget.Candidates, "candidate", nil, "what layers may get with --target-bits or --target-size, as behind the colon of a rule, such as `bits=3,group=64` (repeatable; default 2, 3, 4, 5, 6 and 8 bits in groups of 32, 64 and 128 or of --group-size, what the format has of these or its types, and dense)")
	s.BoolVar(&f.o.Resume, "resume", false, "go on with an interrupted run")
	option(s, "part", "do this `part` of the work, I/N, beside other processes with the same command but for I, on machines that see the same folders; the last one puts the output together, and one that has died is run again (docs/many.md). auto and auto/N take I from Slurm or Kubernetes", func(text string) (lowbit.Part, error) { return lowbit.ParsePart(text, os.Getenv) }, func(v lowbit.Part) { f.o.Part = v })
	s.IntVar(&f.o.Workers, "workers", 0, "goroutines (default: all cores)")
	memoryOption(s, &f.o.Memory, ": what does not fit is kept in a file beside the output, or refused before the work")
	s.BoolVar(&f.report, "report", false, "also write what was done and why to OUT.report.json, and to OUT.report.html for a browser")
	s.BoolVar(&f.json, "json", false, "print one JSON object")
	s.BoolVarP(&f.quiet, "quiet", "q", false, "no progress, no settings and no table of layers")
}

func (f *quantizeFlags) registerFormat(s *pflag.FlagSet) {
	f.format.register(s, " (default lowbit, or the target's)", &f.o.MaxShardBytes)
	option(s, "gguf-type", "`type` of a GGUF file, whose tensors get the types that llama-quantize gives them: "+strings.Join(ggufmodel.Types(), ", ")+". Linears go onto these grids with the method and text of this run; the embedding and the output head are rounded, unless --gguf-dense or --gguf-q8-embeddings says otherwise. Without it, format gguf stores --bits 2 as Q2_K and 3 as Q3_K (with --group-size, --sym, --range, --scale-dtype or --min-zero as Q4_0), 4 and more in plain types", ggufmodel.ParseType, func(v string) { f.format.ggufType = v })
	s.BoolVar(&f.format.ggufPure, "gguf-pure", false, "give every linear, the embedding and the output head the type that most have in a file of --gguf-type")
	option(s, "fp4", "floats of 4 bits in place of integers, in formats mlx and compressed-tensors: `type` is mxfp4 (a power of two for 32 weights) or nvfp4 (a float of 8 bits for 16)", mlx.ParseFP4, func(v string) { f.format.fp4 = v })
	option(s, "fit", "layers the format cannot hold: on changes them to what it can; arms only leaves out arms; off refuses (default: arms where no --arms or --axis ada asks for more, else off)", lowbit.ParseFit, func(v lowbit.Fit) { f.o.Fit = v })
	s.Lookup("fit").NoOptDefVal = lowbit.FitOn.String()
}

func (f *quantizeFlags) registerGrid(s *pflag.FlagSet) {
	option(s, "bits", "`bits` a weight, 2 to 8 (default 4, or the target's)", nonZero("bits 0, want 2 to 8"), func(n int) { f.o.Bits = n })
	option(s, "group-size", "`weights` that share a scale; -1 for whole channels (default 128, or the target's, or 32 in gguf, whose types have a scale for 32)", nonZero("group size 0, want a positive number or -1 for whole channels"), func(n int) { f.o.GroupSize = n })
	boolOption(s, "sym", "symmetric grid: the zero-point is fixed (default off, or the target's)", func(v bool) { f.o.Symmetric = &v })
	boolOption(s, "clip", "clip each group's range where that lowers its error (default: the preset's)", func(v bool) { f.o.Clip = &v })
	boolOption(s, "clip-input", "clip, with errors weighed by the inputs, and try neighbouring zero-points (default: the preset's)", func(v bool) { f.o.ClipInput = &v })
	option(s, "range", "range of an asymmetric group: zero (extended to hold 0) or paper (as in the public AdaDim code) (default zero)", quant.ParseRange, func(v quant.Range) { f.o.Range = v })
	option(s, "scale-dtype", "`type` of the stored scales: f16, f32, f16short (half floats of 7 bits, for Q4_1 in gguf) or bf16 (for a bfloat16 model that is to stay one, in compressed-tensors or mlx) (default f16, or bf16 where that is so)", quant.ParseScaleType, func(v quant.ScaleType) { f.o.ScaleType = &v })
	s.IntVar(&f.o.MinZero, "min-zero", 0, "least zero-point of asymmetric groups (default: what the format needs)")
}

func (f *quantizeFlags) registerMethod(s *pflag.FlagSet) {
	option(s, "method", "how weights are put on the grid: `gptq, rtn`, int8, olive or splitquant (default gptq). int8 is LLM.int8(): 8 bits with a scale a row, as bitsandbytes has it, and with --calib outlier features in 16 bits. olive is OliVe: 4 or 8 bits, in which an outlier takes the place of its neighbour. splitquant is SplitQuant: the sum of three weights, each on the range of a cluster. Formats lowbit and dense hold olive and splitquant", known(methods.Names, "method"), func(v string) { f.method.Name = v })
	boolOption(s, "act-order", "GPTQ takes the most active inputs first, with static groups (default on)", func(on bool) {
		order := gptq.OrderNatural
		if on {
			order = gptq.OrderActivation
		}
		f.o.GPTQ.Order = &order
	})
	option(s, "order", "order of GPTQ's columns: activation (as --act-order), group (the most active groups first, whose scales are found when they are reached; arXiv 2505.14638) or natural (as they stand) (default activation)", gptq.ParseOrder, func(v gptq.Order) { f.o.GPTQ.Order = &v })
	option(s, "damp", "GPTQ's damping, as a `fraction` of the mean diagonal of H (default "+strconv.FormatFloat(gptq.DefaultDamping, 'g', -1, 64)+")", parseDamping, func(v float64) { f.o.GPTQ.Damping = v })
	option(s, "refine", "`rounds` of refinement of scales and codes after GPTQ (default: the preset's)", atLeast(0, "rounds"), func(n int) {
		f.o.GPTQ.Refine = new(gptq.Refine)
		if n > 0 {
			*f.o.GPTQ.Refine = gptq.Refine{Rounds: n, Sweeps: gptq.DefaultRefine().Sweeps}
		}
	})
	option(s, "int8-outliers", "which inputs --method int8 keeps in 16 bits: those that reach the threshold in the text, by the `rule` layer (anywhere in front of that layer) or model (in a quarter of the layers and 6 % of the tokens), or none (default layer)", llmint8.ParseOutliers, func(v llmint8.Outliers) { f.method.Int8.Outliers = v })
	option(s, "int8-threshold", "`magnitude` from which on --method int8 takes an input for an outlier (default 6)", parseFloat, func(v float64) { f.method.Int8.Threshold = float32(v) })
	option(s, "olive-values", "what values other than outliers --method olive has at 4 bits: `adaptive` (by each group's error), int or flint (default adaptive)", olive.ParseNormal, func(v olive.Normal) { f.method.Olive.Normal = v })
	boolOption(s, "olive-tensor", "one scale for a whole weight in --method olive (default: one a group)", func(v bool) { f.method.Olive.PerTensor = v })
	option(s, "split-method", "what --method splitquant quantizes with: `rtn`, or gptq up to 6 bits (default rtn)", known(methods.Inner, "method"), func(v string) { f.method.Split = v })

	option(s, "axis", "where groups lie: oc, ic, or ada (chosen for every layer; a format must hold both); with a preset other than plain, oc also folds input scales (default ada, of what the format can hold, or the target's)", lowbit.ParseAxis, func(v lowbit.Axis) { f.o.Axis = v })
	option(s, "arms", "what is chosen from: paper (oc,ic), all, or a `list` of oc, oc+in, ic, ic+row (default: the preset's, of what the format can hold)", adadim.ParseArms, func(v []adadim.Arm) { f.o.Arms = v })
	option(s, "objective", "what decides between arms: linear (squared error of the output), relative (to each row's size), block (of the block around) or curvature (of the model's loss) (default: the preset's)", adadim.ParseObjective, func(v adadim.Objective) { f.o.Objective = &v })
	option(s, "search", "what the candidates are quantized with: rtn, or method (slower, decides on what is stored) (default: the preset's)", adadim.ParseSearch, func(v adadim.Search) { f.o.Search = &v })
	boolOption(s, "count-bits", "an arm that stores b bits a weight more must have an error 4^b times lower (default: the preset's)", func(v bool) { f.o.CountBits = &v })
	option(s, "fold", "move the scales of arms into the norm or layer before: auto (where the format cannot store them), on (where possible) or off (default auto, or on in axis oc of a preset other than plain, and with fast and best where no arm has scales)", lowbit.ParseFold, func(v lowbit.Fold) { f.o.Fold = v })
	s.Lookup("fold").NoOptDefVal = lowbit.FoldOn.String()
	option(s, "inputs", "what a block is calibrated on: full (the unquantized model's stream; also fp) or quantized (default: the preset's)", parseInputs, func(v lowbit.Inputs) { f.o.Inputs = v })
	option(s, "correct", "`strength`, 0 to 1, of the correction for quantized inputs; implies --inputs quantized (default: the preset's)", parseFloat, func(v float64) { f.o.Correction = &v })
	option(s, "curvature", "judge errors by what they cost the model's own loss, which one pass back through the model tells: on or off (default: on in preset best, where gradients go through the model)", lowbit.ParseCurvature, func(v lowbit.Curvature) { f.o.Curvature = v })
	s.Lookup("curvature").NoOptDefVal = lowbit.CurvatureOn.String()
	option(s, "tune", "tune the quantized model as a whole to predict what the unquantized one does: scales, codes (and scales) or off (default off)", lowbit.ParseTune, func(v lowbit.Tune) { f.o.Tuning.What = v })
	s.IntVar(&f.o.Tuning.Steps, "tune-steps", 0, "steps of about 2048 tokens of --tune (default 100 for scales, 200 for codes)")
	s.IntVar(&f.o.Tuning.Tokens, "tune-tokens", 0, "tokens of the calibration text that --tune takes, also beyond --samples (default all)")
}

func (f *quantizeFlags) registerText(s *pflag.FlagSet) {
	f.calib.register(s, "calib", "text to calibrate on", "; self is text that the model writes itself, ./self a file of that name; FILE@WEIGHT gives a text its share of the windows, 1 where others have none")
	f.calib.registerReading(s)
	s.IntVar(&f.self.Tokens, "calib-tokens", 0, "`tokens` that the model writes for --calib self (default: for --samples windows)")
	s.StringVar(&f.prompts, "calib-prompts", "", "`file` with what the windows of --calib self begin with, one a line, in turn (default: the token that a text begins with)")
	s.Uint64Var(&f.self.Seed, "calib-seed", 0, "`number` that decides what the model writes for --calib self")
	s.StringVar(&f.calibIDs, "calib-ids", "", "`file` of token ids to calibrate on, after the text if there is any: a JSON array of arrays; the model needs no tokenizer for them")
	s.StringVar(&f.o.Importance, "imatrix", "", "`file` with an importance matrix of llama.cpp's (llama-imatrix; GGUF or the older form) that stands in for --calib: the mean squares of every layer's inputs, which is H without what lies beside its diagonal. Every format takes it. Grids are fitted, arms chosen and codes refined by it; GPTQ is rounding to nearest then, as it has nothing to feed errors back by, and --method rtn, which only fits grids, is the fastest")
	s.StringVar(&f.o.SaveImportance, "save-imatrix", "", "`file` to write an importance matrix to, for llama-quantize or --imatrix: of the inputs that --calib gives the layers, which --inputs full makes those of the unquantized model")
	s.IntVar(&f.o.Calibration.Samples, "samples", 0, "calibration windows (default 128)")
	s.IntVar(&f.o.Calibration.SeqLen, "seq-len", 0, "tokens a calibration window (default 2048 or the model's context)")
	s.BoolVar(&f.o.Calibration.RouteAll, "route-all", false, "have every expert of a mixture see all calibration tokens, for statistics only; what is computed stays as it is")
	s.BoolVar(&f.o.BF16, "bf16", false, "round the activations of a bfloat16 model to bfloat16 in calibration, where the CPU is faster at it")
	f.eval.register(s, "eval", "text to measure perplexity on, of the source and of the result, when that is complete and before it has its name", "")
	s.IntVar(&f.o.Evaluation.Window, "window", 0, "tokens a window of --eval (default 2048 or the model's context)")
}

// options turns the flags into options of the library.
func (f *quantizeFlags) options(c *cobra.Command, model string, stdin io.Reader) (lowbit.Options, error) {
	o := f.o
	o.Model, o.Rules = model, slices.Concat(f.o.Rules, f.rules)
	switch {
	case o.Output == "" && !f.printConfig:
		return o, fmt.Errorf("no output given: use -o")
	case o.Output == "":
		o.Output = "OUT" // nothing will be written
	case !f.eval.given() && c.Flags().Changed("window"):
		return o, fmt.Errorf("--window is for --eval")
	case f.calib.stdin && f.eval.stdin:
		return o, fmt.Errorf("standard input can be read once: --calib - or --eval -")
	}
	var err error
	if o.Format, err = f.format.of(o.Target); err != nil {
		return o, err
	}
	if err := f.method.Apply(&o, c.Flags()); err != nil {
		return o, err
	}
	if o.Calibration.Self, err = f.takeSelf(c); err != nil {
		return o, err
	}
	o.Calibration.Text = f.calib.text(stdin)
	if f.eval.given() {
		reading := f.calib // how both are read
		reading.files, reading.weights, reading.weighted, reading.stdin = f.eval.files, f.eval.weights, f.eval.weighted, f.eval.stdin
		o.Evaluation.Text = reading.text(stdin)
	}
	if f.calibIDs != "" {
		if o.Calibration.IDs, err = inputs.IDs(f.calibIDs, stdin); err != nil {
			return o, err
		}
	}
	return o, o.Validate()
}

// takeSelf takes the name of the text that the model writes itself out of those of files.
func (f *quantizeFlags) takeSelf(c *cobra.Command) (*generation.Self, error) {
	i := slices.Index(f.calib.files, "self")
	if i < 0 {
		for _, name := range []string{"calib-tokens", "calib-prompts", "calib-seed"} {
			if c.Flags().Changed(name) {
				return nil, fmt.Errorf("--%s is for --calib self", name)
			}
		}
		return nil, nil
	}
	self := f.self
	f.calib.files, f.calib.weights = slices.Delete(slices.Clone(f.calib.files), i, i+1), slices.Delete(slices.Clone(f.calib.weights), i, i+1)
	if f.prompts == "" {
		return &self, nil
	}
	data, err := disk.ReadText(f.prompts, 1<<20)
	for line := range strings.Lines(string(data)) {
		if line = strings.TrimRight(line, "\r\n"); line != "" {
			self.Prompts = append(self.Prompts, line)
		}
	}
	if err == nil && len(self.Prompts) == 0 {
		err = fmt.Errorf("%s: no prompts", f.prompts)
	}
	return &self, err
}

// setting is a flag without a default value of its own: what is not given
// is left to the library.
type setting struct {
	typ, value string
	set        func(string) error
}

func (s *setting) String() string { return s.value }
func (s *setting) Type() string   { return s.typ }
func (s *setting) Set(text string) error {
	s.value = text
	return s.set(text)
}

// option registers a flag whose text is parsed and handed on.
func option[T any](s *pflag.FlagSet, name, usage string, parse func(string) (T, error), set func(T)) {
	s.Var(&setting{typ: "name", set: func(text string) error {
		v, err := parse(text)
		if err == nil {
			set(v)
		}
		return err
	}}, name, usage)
}

// memoryOption registers the limit of memory, and what becomes of what does not fit.
func memoryOption(s *pflag.FlagSet, to *int64, what string) {
	option(s, "memory", "`size` of the memory that may be used, such as 4GiB"+what+" (default 80 % of the machine's, or of its control group's)", memory.ParseSize, func(n int64) { *to = n })
}

// boolOption registers a switch that can be on, off or not given.
func boolOption(s *pflag.FlagSet, name, usage string, set func(bool)) {
	option(s, name, usage, strconv.ParseBool, set)
	f := s.Lookup(name)
	f.Value.(*setting).typ, f.NoOptDefVal = "", "true"
}

func known(names []string, kind string) func(string) (string, error) {
	return func(text string) (string, error) {
		for _, n := range names {
			if n == text {
				return n, nil
			}
		}
		return "", fmt.Errorf("unknown %s %q, want %s", kind, text, strings.Join(names, ", "))
	}
}

func nonZero(zero string) func(string) (int, error) {
	return func(text string) (int, error) {
		n, err := strconv.Atoi(text)
		if err == nil && n == 0 {
			err = fmt.Errorf("%s", zero)
		}
		return n, err
	}
}

func atLeast(least int, what string) func(string) (int, error) {
	return func(text string) (int, error) {
		n, err := strconv.Atoi(text)
		if err == nil && n < least {
			err = fmt.Errorf("%d %s, want at least %d", n, what, least)
		}
		return n, err
	}
}

func parseFloat(text string) (float64, error) { return strconv.ParseFloat(text, 64) }

func parseDamping(text string) (float64, error) {
	v, err := parseFloat(text)
	if err == nil && !(v > 0 && v < 1) {
		err = fmt.Errorf("damping %g, want a fraction between 0 and 1", v)
	}
	return v, err
}

// parseInputs also knows the name that the full-precision stream has in
// the literature.
func parseInputs(text string) (lowbit.Inputs, error) {
	if text == "fp" {
		return lowbit.InputsFull, nil
	}
	return lowbit.ParseInputs(text)
}
