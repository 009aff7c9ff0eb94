// Package llama runs decoder-only transformers of the Llama family (Llama,
// Mistral, Qwen2, Qwen3, told apart by config.json) block by block in float32,
// in stages, so that a caller can see the input of every linear layer and can
// exchange weights between the stages. It knows nothing of quantization.
//
// The data flow of one block, x being the residual stream [rows, hidden]:
//
//	h = RMSNorm(x)                      input of q, k, v      (AttnInput)
//	a = attention(q(h), k(h), v(h))     input of o            (Attend)
//	x += o(a)                                                 (AttnOutput)
//	h = RMSNorm(x)                      input of gate, up     (MLPInput)
//	m = silu(gate(h)) * up(h)           input of down         (MLPAct)
//	x += down(m)                                              (MLPOutput)
//
// Rows are tokens: a batch is any number of whole windows of seqLen tokens,
// one after the other; each window is a sequence of its own with positions
// 0 to seqLen-1. Nothing computed here depends on the number of workers.
package llama
