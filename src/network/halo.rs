//! Receptive field and tileability, read off the graph. (stub: signatures)

/// What one output pixel depends on, per axis Z, Y, X.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// Input pixels on either side of a pixel that can change it; `None` where the output depends on the whole
    /// image, or where the graph cannot be analysed.
    pub halo: Option<[usize; 3]>,
    /// Why `halo` is `None`: the operator and its name.
    pub reason: Option<String>,
    /// Output pixels per input pixel.
    pub scale: [usize; 3],
    /// Input sides must be a multiple of this (product of the strides).
    pub multiple: [usize; 3],
}
