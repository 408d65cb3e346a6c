//! Operations as their formulas stand there, in operations of the tensor library and with its gradients: what the library
//! would be without kernels of its own.

use anyhow::{Result, bail};
use candle_core::{D, Tensor, Var};

use super::{Case, Step};

/// One forward and one backward pass of the case's operation.
pub(super) fn step(case: &Case) -> Result<Step> {
    match case.text("op")? {
        "encoding" => {
            let [x, codewords, scale] = super::ops::encoding_inputs(case)?;
            Ok(Box::new(move || {
                encoding(&x, &codewords, &scale)?.sum_all()?.backward()?;
                Ok(())
            }))
        }
        op => bail!("there is no naive form of {op}"),
    }
}

/// Residuals of every position to every codeword, `(B, N, K, D)`, and everything from them.
fn encoding(x: &Var, codewords: &Var, scale: &Var) -> Result<Tensor> {
    let residuals = x.unsqueeze(2)?.broadcast_sub(codewords)?;
    let logits = residuals.sqr()?.sum(D::Minus1)?.broadcast_mul(scale)?;
    let shares = candle_nn::ops::softmax(&logits, D::Minus1)?;
    Ok(residuals.broadcast_mul(&shares.unsqueeze(3)?)?.sum(1)?)
}
