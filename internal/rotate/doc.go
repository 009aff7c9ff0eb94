// Package rotate changes the bases of a model's registers without changing its function,
// offline: the rotations fold into the weights that are stored (MambaQuant, arXiv 2501.13484
// §4; QuaRot, arXiv 2404.00456 §3; SpinQuant, arXiv 2405.16406 §3.1).
//
// The residual stream x becomes x·Q. What writes it, W, becomes Qᵀ·W; what reads its norm
// becomes W·diag(g)·Q, the gain g folded into it and left as ones: without a gain RMSNorm
// commutes with Q. LayerNorm does not, as it takes the mean over channels. The values of
// attention become v·R, head by head, and the columns of what reads their mean take R:
// attention is linear in them. Which operations read and write is found in the programs of
// the blocks, and what is not understood is refused by its name.
//
// In Mamba the output projection is read from the gated state, whose gate is a product by
// element: neither rotations nor, SiLU being no power function, scales pass through it to
// the weights before. (The paper puts scales there by replacing SiLU, its S-SiLU,
// and rotates online: models that stock engines do not load.) In Mamba-2 its scales
// fold into the gain of the gated norm, which is a program.Fold as all such gains are.
package rotate
