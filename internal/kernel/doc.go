// Package kernel holds the float32 inner loops under tensor, quant and gptq.
// Every operation has a plain-Go twin that defines it.
package kernel
