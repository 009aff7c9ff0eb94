package main

import (
	"github.com/golowbit/lowbit"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/quant/llmint8"
)

// eight is the cell of 8 bits with a scale a row.
func eight(bits, group int) bool { return bits == 8 && group == quant.WholeLine }

// byRow rounds to 8 symmetric bits with a scale a row.
func byRow(o *lowbit.Options) {
	o.Method, o.Axis, o.Symmetric = quant.RTN{}, lowbit.AxisOC, new(true)
	o.Calibration = lowbit.Calibration{}
}

// int8 is LLM.int8() with a rule of outliers.
func int8(rule llmint8.Outliers) func(o *lowbit.Options) {
	return func(o *lowbit.Options) {
		o.Bits, o.GroupSize, o.Method = 0, 0, llmint8.Quantizer{Outliers: rule}
		if rule == llmint8.OutliersNone {
			o.Calibration = lowbit.Calibration{}
		}
	}
}

// eightBits are the methods of that cell. Those in int8Inputs are measured with
// activations in 8 bits.
var eightBits = []variant{
	{"RTN 8 bits", byRow, eight},
	{"RTN 8 bits, activations too", byRow, eight},
	{"RTN 8 bits, activations from 6 on in 16", byRow, eight},
	{"int8", int8(llmint8.OutliersNone), eight},
	{"int8, activations too", int8(llmint8.OutliersNone), eight},
	{"int8, activations from 6 on in 16", int8(llmint8.OutliersNone), eight},
	{"int8, columns of layers", int8(llmint8.OutliersLayer), eight},
	{"int8, columns of layers, activations too", int8(llmint8.OutliersLayer), eight},
	{"int8, columns of the model", int8(llmint8.OutliersModel), eight},
	{"int8, columns of the model, activations too", int8(llmint8.OutliersModel), eight},
}

// int8Inputs is from which magnitude on activations are left in 16 bits, by the method.
var int8Inputs = map[string]float32{
	"RTN 8 bits, activations too": 0, "RTN 8 bits, activations from 6 on in 16": 6,
	"int8, activations too": 0, "int8, activations from 6 on in 16": 6,
	"int8, columns of layers, activations too": 0, "int8, columns of the model, activations too": 0,
}
