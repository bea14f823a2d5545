"""How fast a combination of logits changes, by what the last layers do to *its* gradient.

A product of norms supposes that the gradient of a combination c of the logits, with respect to the
output of a convolution, is the signal that this convolution stretches most. It is not free to be:
what layers after the convolution leave of `c`, and in which places, is known from their kernels.

Let z be what a hidden dense layer W reads, and let activations and pooling between the convolution
A and z treat groups of entries apart: the difference of a group of their outputs is at most `s`
times that of a group of their inputs. The activation after W, sorted pairs or straight pieces, acts
on a difference as a matrix `J(x)`, affine in numbers x between -1 and 1: `c' J(x) W dz` is the
difference of the combination.

Theorem. For any positive numbers p, one for each group g, let `||sqrt(P) A||**2 <= k` with the
diagonal matrix P of the p, and for any positive numbers m_0 ... m_n let
`Q <= q diag(m)` in the order of symmetric matrices, with the Gram matrix

    Q_ij = b_i' W diag(1 / p) W' b_j,    J(x)' c = b_0 + sum_i x_i b_i

Behind inputs of constant K the combination is `K s sqrt(k q sum(m))`-Lipschitz.

Proof. `sum_g p_g ||dz_g||**2 <= s**2 ||sqrt(P) A dx||**2 <= s**2 k K**2`, and by Cauchy's
inequality, group by group, `(c' J W dz)**2` is at most that times `sum_g ||(W' J' c)_g||**2 / p_g`,
which is `y' Q y` for `y = (1, x)`, and `y' Q y <= q sum_i m_i y_i**2 <= q sum(m)`.

`weights` chooses p, `norm` proves k, `slopes` chooses m and proves q, `tail` reads the graph.
"""

from deel_lip_tf.bounds.gaps.tail import find_tail

__all__ = ["find_tail"]
