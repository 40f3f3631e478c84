//! Intensities of the source → the scale on which networks were trained, and back. (stub: signatures)
use serde::{Deserialize, Serialize};

/// How intensities are brought to the scale of the network; statistics are taken over all finite samples of one
/// channel of the whole image or stack.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Normalization {
    /// `low` and `high` percentile (0–100) become 0 and 1; nothing is clipped.
    Percentile {
        /// Percentile that becomes 0.
        low: f64,
        /// Percentile that becomes 1.
        high: f64,
    },
    /// Mean becomes 0, standard deviation 1.
    MeanStd,
    /// Samples are passed on as they are.
    None,
}
