//! Receptive field and tileability, read off the graph. Every tensor is followed through the operators at a
//! given size of the input: its shape, its content where that is small and known (shape computations), and for
//! each spatial axis of the input which input pixels an element can depend on: element j of a tensor of pitch r
//! depends on input pixels r·j + [low, high]. The shapes serve `memory` too, and bound what a file can make tract
//! allocate.
//!
//! Whatever is not proven local counts as depending on the whole image: an unknown operator costs the user the
//! tiling, never a seam. Two sizes are followed and must agree, so that an offset or a scale computed from the size of
//! the image is found out.

use super::graph::{Graph, Node};
use std::collections::HashMap;

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
    /// A tile must start at, and input sides must be, a multiple of this (product of the strides).
    pub multiple: [usize; 3],
}

/// Side at which a graph without fixed sides is analysed: divisible by all the strides that occur in practice.
const REFERENCE: usize = 960;
/// Longest content that is followed.
const MAX_DATA: usize = 64;
/// Elements that any tensor may have, beside `MAX_GROWTH` times those of the input.
const MAX_ELEMENTS: usize = 1 << 24;
/// Elements of a tensor per element of the input.
const MAX_GROWTH: usize = 2048;

type Check<T> = std::result::Result<T, String>;

/// A reduced fraction above 0: input pixels per element.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Pitch {
    num: i64,
    den: i64,
}

impl Pitch {
    const ONE: Self = Self { num: 1, den: 1 };

    /// `self · num / den`; `None` where that is no fraction of a sane size.
    fn times(self, num: usize, den: usize) -> Option<Self> {
        let num = self.num.checked_mul(i64::try_from(num).ok()?)?;
        let den = self.den.checked_mul(i64::try_from(den).ok()?)?;
        let divisor = gcd(num, den);
        if divisor == 0 {
            return None;
        }
        let pitch = Self { num: num / divisor, den: den / divisor };
        (pitch.num > 0 && pitch.den > 0 && pitch.num <= 1 << 20 && pitch.den <= 1 << 20).then_some(pitch)
    }

    fn value(self) -> f64 {
        self.num as f64 / self.den as f64
    }
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// How a tensor depends on one spatial axis of the input.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Spread {
    /// Which axis of the tensor runs along it.
    axis: usize,
    pitch: Pitch,
    /// Unbounded, as `high`, where it depends on all pixels.
    low: f64,
    high: f64,
}

impl Spread {
    fn unbounded(self) -> Self {
        Self { low: f64::NEG_INFINITY, high: f64::INFINITY, ..self }
    }
}

/// How a tensor depends on the pixels of the input.
#[derive(Clone, Debug, PartialEq)]
enum Pixels {
    /// Not at all; `sized` where its values can depend on the size of the image.
    Free { sized: bool },
    /// Laid out on a grid of pixels: one spread for each spatial axis.
    Local(Vec<Spread>),
    /// On everything, for this reason, and not laid out on a grid.
    Whole(String),
}

/// What is known of a tensor.
#[derive(Clone, Debug)]
pub(super) struct Value {
    pub shape: Option<Vec<usize>>,
    data: Option<Vec<f64>>,
    integer: bool,
    pixels: Pixels,
    /// Which operator made it depend on the whole image, where a spread is unbounded.
    reason: Option<String>,
}

impl Value {
    fn rank(&self) -> Option<usize> {
        self.shape.as_ref().map(Vec::len)
    }

    /// Content as integers.
    fn ints(&self) -> Option<Vec<i64>> {
        Some(self.data.as_ref()?.iter().map(|&v| v as i64).collect())
    }

    /// Content of a result whose elements are elements of this: `from` gives the place of one here for its place there.
    fn picked(&self, result: &Self, from: impl Fn(&[usize]) -> Vec<usize>) -> Option<Vec<f64>> {
        let (data, shape, out) = (self.data.as_ref()?, self.shape.as_ref()?, result.shape.as_ref()?);
        let count = result.elements().filter(|&n| n <= MAX_DATA)?;
        let at = |mut flat: usize| {
            let mut place = vec![0; out.len()];
            for (i, &side) in place.iter_mut().zip(out).rev() {
                (*i, flat) = (flat % side, flat / side);
            }
            let flat = from(&place).iter().zip(shape).try_fold(0usize, |flat, (&i, &side)| {
                if i < side { flat.checked_mul(side)?.checked_add(i) } else { None }
            })?;
            data.get(flat).copied()
        };
        (0..count).map(at).collect()
    }

    fn is_free(&self) -> bool {
        matches!(self.pixels, Pixels::Free { .. })
    }

    /// Elements, where the shape is known.
    pub fn elements(&self) -> Option<usize> {
        self.shape.as_ref().map(|s| s.iter().product())
    }
}

/// What is known of every tensor at one size of the input.
pub(super) struct Trace<'a> {
    pub values: HashMap<&'a str, Value>,
}

/// The receptive field, and the shape of the output (`None`: cannot be told from the graph).
pub(super) struct Analysis {
    pub field: Field,
    pub out_channels: Option<usize>,
}

/// Reads the field off the graph; `channels` is that of the input.
pub(super) fn analyse(graph: &Graph, channels: usize) -> Check<Analysis> {
    let spatial = graph.input_dims.len() - 2;
    let side = |factor: usize| -> Vec<usize> {
        let sides = graph.input_dims[2..].iter().map(|d| d.unwrap_or(REFERENCE * factor));
        [1, channels].into_iter().chain(sides).collect()
    };
    let (small, large) = (side(1), side(2));
    let first = describe(graph, &small)?;
    let second = describe(graph, &large)?;
    if let (Some(a), Some(b)) = (&first.shape, &second.shape)
        && (a.scale != b.scale || a.channels != b.channels)
    {
        return Err("the size of its output is no multiple of the size of its input".into());
    }
    let scale = first.shape.as_ref().map_or([1; 3], |s| s.scale);
    let mut multiple = [1; 3];
    multiple[3 - spatial..].copy_from_slice(&first.multiple);
    let whole = |reason: String| Field { halo: None, reason: Some(reason), scale, multiple };
    let field = match (&first.pixels, &second.pixels) {
        (Pixels::Whole(reason), _) | (_, Pixels::Whole(reason)) => whole(reason.clone()),
        (Pixels::Local(_), _) if first.reason.is_some() => whole(first.reason.unwrap_or_default()),
        (Pixels::Free { .. }, _) => return Err("its output does not depend on its input".into()),
        (a, b) if a != b => whole("what an output pixel depends on changes with the size of the image".into()),
        (Pixels::Local(spreads), _) => {
            let mut halo = [0; 3];
            for (axis, spread) in spreads.iter().enumerate() {
                let place = axis + 3 - spatial;
                if spread.pitch.num != 1 || spread.pitch.den != scale[place] as i64 || spread.axis != axis + 2 {
                    return Err(format!(
                        "its output has {} pixels for {} input pixels; expected a whole number for each",
                        spread.pitch.den, spread.pitch.num
                    ));
                }
                let phase = (scale[place] - 1) as f64 / scale[place] as f64;
                let reach = (-spread.low).floor().max((spread.high + phase).floor()).max(0.0);
                halo[place] = reach as usize;
            }
            Field { halo: Some(halo), reason: None, scale, multiple }
        }
    };
    Ok(Analysis { field, out_channels: first.shape.map(|s| s.channels) })
}

struct Output {
    channels: usize,
    scale: [usize; 3],
}

struct Description {
    pixels: Pixels,
    shape: Option<Output>,
    multiple: Vec<usize>,
    reason: Option<String>,
}

fn describe(graph: &Graph, input: &[usize]) -> Check<Description> {
    let spatial = input.len() - 2;
    let trace = follow(graph, input)?;
    let output = trace.values.get(graph.output.as_str()).ok_or("nothing makes its output")?;
    let shape = match &output.shape {
        None => None,
        Some(shape) => Some(output_shape(input, shape)?),
    };
    // A pitch of num/den means that a shift of num input pixels is a whole number of elements.
    let mut multiple = vec![1usize; spatial];
    for value in trace.values.values() {
        if let Pixels::Local(spreads) = &value.pixels {
            for (m, spread) in multiple.iter_mut().zip(spreads) {
                let num = spread.pitch.num as usize;
                *m = *m / gcd(*m as i64, num as i64) as usize * num;
            }
        }
    }
    if multiple.iter().any(|&m| m > 1 << 16) {
        return Err("its strides multiply to more than 65536".into());
    }
    Ok(Description { pixels: output.pixels.clone(), shape, multiple, reason: output.reason.clone() })
}

/// Channels and scale of an output of this shape.
fn output_shape(input: &[usize], output: &[usize]) -> Check<Output> {
    if output.len() != input.len() {
        return Err(format!("its output has {} axes, its input {}; expected the same", output.len(), input.len()));
    }
    if output[0] != 1 {
        return Err(format!("its output has a batch of {}; expected 1", output[0]));
    }
    let mut scale = [1; 3];
    let first = 3 - (input.len() - 2);
    for (axis, (&i, &o)) in input.iter().zip(output).enumerate().skip(2) {
        if o == 0 || o % i != 0 {
            return Err(format!(
                "it makes {o} pixels of {i} along axis {axis}; expected as many or a multiple: pad inside the network"
            ));
        }
        scale[first + axis - 2] = o / i;
    }
    Ok(Output { channels: output[1], scale })
}

/// Follows every tensor at this shape of the input (N, C, spatial axes).
pub(super) fn follow<'a>(graph: &'a Graph, input: &[usize]) -> Check<Trace<'a>> {
    let mut values: HashMap<&str, Value> = HashMap::with_capacity(graph.nodes.len() + graph.constants.len());
    for (name, c) in &graph.constants {
        let pixels = Pixels::Free { sized: false };
        let value =
            Value { shape: Some(c.shape.clone()), data: c.data.clone(), integer: c.integer, pixels, reason: None };
        values.insert(name, value);
    }
    let spreads = (2..input.len()).map(|axis| Spread { axis, pitch: Pitch::ONE, low: 0.0, high: 0.0 });
    let pixels = Pixels::Local(spreads.collect());
    values
        .insert(&graph.input, Value { shape: Some(input.to_vec()), data: None, integer: false, pixels, reason: None });
    let limit = input.iter().try_fold(MAX_GROWTH, |n, &d| n.checked_mul(d)).unwrap_or(usize::MAX).max(MAX_ELEMENTS);
    for node in &graph.nodes {
        let inputs: Vec<Option<&Value>> = node.inputs.iter().map(|name| values.get(name.as_str())).collect();
        let step = Step { graph, node, inputs: &inputs, limit, side: &input[2..] };
        let mut outputs = step.outputs()?;
        for value in &mut outputs {
            value.reason = step.reason(value);
        }
        let named = node.outputs.iter().zip(outputs).filter(|(name, _)| !name.is_empty());
        values.extend(named.map(|(name, value)| (name.as_str(), value)));
    }
    Ok(Trace { values })
}

/// One operator with what is known of its inputs.
struct Step<'a> {
    graph: &'a Graph,
    node: &'a Node,
    inputs: &'a [Option<&'a Value>],
    limit: usize,
    /// Sides of the input.
    side: &'a [usize],
}

impl Step<'_> {
    fn input(&self, index: usize) -> Option<&Value> {
        self.inputs.get(index).copied().flatten()
    }

    fn error<T>(&self, message: &str) -> Check<T> {
        Err(format!("{}: {message}", self.node.label()))
    }

    /// Why a result depends on the whole image, where it does: what an input has to say, else this operator.
    fn reason(&self, result: &Value) -> Option<String> {
        let Pixels::Local(spreads) = &result.pixels else { return None };
        if spreads.iter().all(|s| s.low.is_finite() && s.high.is_finite()) {
            return None;
        }
        let blamed = self.node.op.ends_with("Normalization");
        let before = self.inputs.iter().copied().flatten().find_map(|v| match &v.pixels {
            Pixels::Whole(reason) if !blamed => Some(reason.clone()),
            _ => v.reason.clone(),
        });
        before.or_else(|| Some(format!("{} depends on the whole image", self.node.label())))
    }

    /// The grid of `x`, every element depending on all pixels.
    fn unbounded(&self, x: &Value) -> Pixels {
        match &x.pixels {
            Pixels::Local(spreads) => Pixels::Local(spreads.iter().map(|s| s.unbounded()).collect()),
            _ => self.blamed(),
        }
    }

    fn whole(&self) -> Pixels {
        self.whole_because("depends on the whole image")
    }

    fn whole_because(&self, why: &str) -> Pixels {
        Pixels::Whole(format!("{} {why}", self.node.label()))
    }

    /// What a result depends on where the operator may mix everything: the reason of the first input that is whole
    /// already, else this operator.
    fn mixed(&self) -> Pixels {
        let mut sized = false;
        let mut local = false;
        for value in self.inputs.iter().copied().flatten() {
            match &value.pixels {
                Pixels::Whole(reason) => return Pixels::Whole(reason.clone()),
                Pixels::Local(_) => local = true,
                Pixels::Free { sized: s } => sized |= s,
            }
        }
        if local { self.whole() } else { Pixels::Free { sized } }
    }

    /// As `mixed`, but this operator takes the blame: normalisations are often spelt as Reshape, norm, Reshape.
    fn blamed(&self) -> Pixels {
        if self.inputs.iter().copied().flatten().all(Value::is_free) { self.mixed() } else { self.whole() }
    }

    /// Checks the size of a result before anything else looks at it.
    fn value(&self, shape: Option<Vec<usize>>, pixels: Pixels) -> Check<Value> {
        if let Some(shape) = &shape {
            let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
            if elements.is_none_or(|n| n > self.limit) {
                return self
                    .error(&format!("its result of shape {shape:?} is larger than a network of this input needs"));
            }
        }
        let integer = self.input(0).is_some_and(|v| v.integer);
        // A neighbourhood without a shape to hang it on is of no use.
        let pixels = match (&shape, pixels) {
            (None, Pixels::Local(_)) => self.whole_because("has a result of unknown shape"),
            (_, pixels) => pixels,
        };
        Ok(Value { shape, data: None, integer, pixels, reason: None })
    }

    fn outputs(&self) -> Check<Vec<Value>> {
        let node = self.node;
        if node.op == "Split" {
            return self.split();
        }
        let Some(x) = self.input(0) else {
            return Ok(vec![self.without_input()?]);
        };
        let mut result = match node.op.as_str() {
            "Identity" | "Dropout" => x.clone(),
            "Abs" | "Acos" | "Acosh" | "Asin" | "Asinh" | "Atan" | "Atanh" | "Celu" | "Ceil" | "Clip" | "Cos"
            | "Cosh" | "Elu" | "Erf" | "Exp" | "Floor" | "Gelu" | "HardSigmoid" | "HardSwish" | "IsInf" | "IsNaN"
            | "LeakyRelu" | "Log" | "Mish" | "Neg" | "Not" | "ParametricSoftplus" | "Reciprocal" | "Relu" | "Round"
            | "Rsqrt" | "ScaledTanh" | "Selu" | "Shrink" | "Sigmoid" | "Sign" | "Sin" | "Softplus" | "Softsign"
            | "Sqrt" | "Swish" | "Tan" | "Tanh" | "ThresholdedRelu" | "Cast" | "CastLike" | "LRN" => {
                self.value(x.shape.clone(), x.pixels.clone())?
            }
            "BatchNormalization" if node.int("training_mode", 0) == 0 => {
                self.value(x.shape.clone(), self.channelwise(x))?
            }
            "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Mod" | "Max" | "Min" | "Mean" | "Sum" | "PRelu" | "Where"
            | "And" | "Or" | "Xor" | "Equal" | "Greater" | "GreaterOrEqual" | "Less" | "LessOrEqual" | "BitwiseAnd"
            | "BitwiseOr" | "BitwiseXor" => self.elementwise()?,
            "Conv" => self.conv(x)?,
            "ConvTranspose" => self.conv_transpose(x)?,
            "MaxPool" | "AveragePool" | "LpPool" => self.pool(x)?,
            "Resize" | "Upsample" => self.resize(x)?,
            "Concat" => self.concat()?,
            "Pad" => self.pad(x)?,
            "Slice" => self.slice(x)?,
            "DepthToSpace" => self.depth_to_space(x)?,
            "SpaceToDepth" => self.space_to_depth(x)?,
            "Transpose" => self.transpose(x)?,
            "Reshape" | "Flatten" => self.reshape(x)?,
            "Squeeze" | "Unsqueeze" => self.squeeze(x)?,
            "Gather" => self.gather(x)?,
            "Expand" | "Tile" => self.expand(x)?,
            "Shape" => self.shape(x)?,
            "Size" => self.value(Some(vec![]), self.size_of(x))?,
            "ConstantOfShape" => self.constant_of_shape(x)?,
            "Range" => self.range(x)?,
            "Softmax"
            | "LogSoftmax"
            | "Hardmax"
            | "LpNormalization"
            | "LayerNormalization"
            | "RMSNormalization"
            | "SimplifiedLayerNormalization"
            | "CumSum" => self.value(x.shape.clone(), self.along_axis(x))?,
            "InstanceNormalization" | "GroupNormalization" | "MeanVarianceNormalization" | "BatchNormalization" => {
                self.value(x.shape.clone(), self.unbounded(x))?
            }
            "GlobalAveragePool" | "GlobalMaxPool" | "GlobalLpPool" => {
                let shape = x.shape.as_ref().map(|s| s.iter().enumerate().map(|(i, &d)| if i < 2 { d } else { 1 }));
                self.value(shape.map(Iterator::collect), self.blamed())?
            }
            "ArgMax" | "ArgMin" => self.reduce(x)?,
            op if op.starts_with("Reduce") => self.reduce(x)?,
            "MatMul" => self.matmul(x)?,
            "Gemm" => self.gemm(x)?,
            "GridSample" | "CumProd" | "Trilu" | "ScatterND" | "ScatterElements" | "Scatter" => {
                let shape = if node.op == "GridSample" { None } else { x.shape.clone() };
                self.value(shape, self.mixed())?
            }
            "GatherElements" => self.value(self.input(1).and_then(|i| i.shape.clone()), self.mixed())?,
            "Attention" | "TopK" | "QuantizeLinear" | "DequantizeLinear" => self.value(None, self.mixed())?,
            _ => return self.error("this operator is not supported in an image-to-image network"),
        };
        if result.data.is_none() && result.is_free() {
            result.data = self.content(&result);
        }
        result.integer = match node.op.as_str() {
            "Shape" | "Size" => true,
            "Cast" => !matches!(node.int("to", 1), 1 | 10 | 11 | 16),
            "ConstantOfShape" => node.int("value.integer", 0) == 1,
            "Where" => self.input(1).is_some_and(|v| v.integer),
            _ => x.integer,
        };
        // Further outputs (masks, indices, running means) are known only to depend on the same.
        let mut results = vec![result];
        for name in &node.outputs[1..] {
            let value = if name.is_empty() {
                Value { shape: None, data: None, integer: false, pixels: Pixels::Free { sized: true }, reason: None }
            } else {
                let shape = if node.op == "MaxPool" { results[0].shape.clone() } else { None };
                self.value(shape, self.mixed())?
            };
            results.push(value);
        }
        Ok(results)
    }

    fn without_input(&self) -> Check<Value> {
        if self.node.op != "Constant" {
            return self.error("it lacks an input");
        }
        let node = self.node;
        let pixels = Pixels::Free { sized: false };
        let ints = |key: &str| node.ints(key).map(|v| v.iter().map(|&i| i as f64).collect::<Vec<_>>());
        let floats = |key: &str| node.floats(key).map(|v| v.iter().map(|&f| f64::from(f)).collect::<Vec<_>>());
        let mut value = Value { shape: None, data: None, integer: true, pixels, reason: None };
        if let Some(shape) = node.ints("value.shape") {
            value.integer = node.int("value.integer", 0) == 1;
            value.shape = Some(shape.iter().map(|&d| d as usize).collect());
            value.data = if value.integer { ints("value") } else { floats("value") };
        } else if let Some(data) = ints("value_ints").or_else(|| ints("value_int")) {
            value.shape = Some(if node.ints("value_int").is_some() { vec![] } else { vec![data.len()] });
            value.data = Some(data).filter(|d| d.len() <= MAX_DATA);
        } else if let Some(data) = floats("value_floats").or_else(|| floats("value_float")) {
            value.integer = false;
            value.shape = Some(if node.floats("value_float").is_some() { vec![] } else { vec![data.len()] });
            value.data = Some(data).filter(|d| d.len() <= MAX_DATA);
        }
        Ok(value)
    }

    /// Content of a small result that does not depend on pixels.
    fn content(&self, result: &Value) -> Option<Vec<f64>> {
        let n = result.elements()?;
        if n > MAX_DATA {
            return None;
        }
        let x = self.input(0)?;
        let unary = |f: &dyn Fn(f64) -> f64| Some(x.data.as_ref()?.iter().map(|&v| f(v)).collect());
        match self.node.op.as_str() {
            "Squeeze" | "Unsqueeze" | "Reshape" | "Flatten" => x.data.clone(),
            "Cast" => {
                let integer = !matches!(self.node.int("to", 1), 1 | 10 | 11 | 16);
                unary(&|v| if integer { v.trunc() } else { v })
            }
            "Floor" => unary(&f64::floor),
            "Ceil" => unary(&f64::ceil),
            "Round" => unary(&f64::round_ties_even),
            "Neg" => unary(&|v| -v),
            "Abs" => unary(&f64::abs),
            "Sqrt" => unary(&f64::sqrt),
            "Add" => self.binary(n, |a, b| a + b),
            "Sub" => self.binary(n, |a, b| a - b),
            "Mul" => self.binary(n, |a, b| a * b),
            "Div" if x.integer => self.binary(n, |a, b| if b == 0.0 { f64::NAN } else { (a / b).trunc() }),
            "Div" => self.binary(n, |a, b| a / b),
            "Mod" if self.node.int("fmod", 0) == 0 => {
                self.binary(n, |a, b| if b == 0.0 { f64::NAN } else { a - b * (a / b).floor() })
            }
            "Max" => self.binary(n, f64::max),
            "Min" => self.binary(n, f64::min),
            "Equal" => self.binary(n, |a, b| f64::from(a == b)),
            _ => None,
        }
    }

    /// Two inputs of which one may be a single element. Content that is no number is unknown.
    fn binary(&self, n: usize, f: impl Fn(f64, f64) -> f64) -> Option<Vec<f64>> {
        let (a, b) = (self.input(0)?.data.as_ref()?, self.input(1)?.data.as_ref()?);
        if self.inputs.len() != 2 || [a, b].iter().any(|v| v.len() != n && v.len() != 1) {
            return None;
        }
        let at = |v: &[f64], i: usize| if v.len() == 1 { v[0] } else { v[i] };
        let result: Vec<f64> = (0..n).map(|i| f(at(a, i), at(b, i))).collect();
        result.iter().all(|v| v.is_finite()).then_some(result)
    }

    /// Whether every other input (scale, bias, …) is constant.
    fn channelwise(&self, x: &Value) -> Pixels {
        let constant = |v: &Value| matches!(v.pixels, Pixels::Free { sized: false });
        if x.is_free() || self.inputs[1..].iter().copied().flatten().all(constant) {
            x.pixels.clone()
        } else {
            self.unbounded(x)
        }
    }

    fn elementwise(&self) -> Check<Value> {
        let mut shape = Some(vec![]);
        for value in self.inputs.iter().copied().flatten() {
            shape =
                match (shape, &value.shape) {
                    (Some(a), Some(b)) => Some(broadcast(&a, b).ok_or_else(|| {
                        format!("{}: shapes {a:?} and {b:?} do not fit each other", self.node.label())
                    })?),
                    _ => None,
                };
        }
        let pixels = self.combined(shape.as_deref());
        self.value(shape, pixels)
    }

    /// What a result of this shape depends on, whose elements depend on the elements at the same place.
    fn combined(&self, shape: Option<&[usize]>) -> Pixels {
        let mut union: Option<Vec<Spread>> = None;
        let Some(shape) = shape else { return self.mixed() };
        for value in self.inputs.iter().copied().flatten() {
            let Pixels::Local(spreads) = &value.pixels else { continue };
            let shift = shape.len() - value.rank().unwrap_or(0);
            let spreads: Vec<_> = spreads.iter().map(|s| Spread { axis: s.axis + shift, ..*s }).collect();
            union = Some(match union {
                None => spreads,
                Some(before) => match join(&before, &spreads) {
                    Some(joined) => joined,
                    None => return self.whole_because("combines tensors of different grids"),
                },
            });
        }
        let Some(spreads) = union else { return self.mixed() };
        // Broadcast along a spatial axis is fine for a constant. Values that follow from the size of the image, or
        // differ from pixel to pixel, would differ from tile to tile.
        let local = self.inputs.iter().copied().flatten().all(|value| match &value.pixels {
            Pixels::Local(_) => true,
            Pixels::Whole(_) | Pixels::Free { sized: true } => false,
            Pixels::Free { sized: false } => {
                let own = value.shape.as_deref().unwrap_or(&[]);
                let shift = shape.len() - own.len();
                spreads.iter().all(|s| s.axis < shift || own[s.axis - shift] == 1)
            }
        });
        Pixels::Local(if local { spreads } else { spreads.iter().map(|s| s.unbounded()).collect() })
    }

    /// The spreads of `x` after an operator along the axes from 2 on: `along` gives the new spread of one of them.
    fn sliding(&self, x: &Value, along: impl Fn(usize, Spread) -> Option<Spread>) -> Pixels {
        match &x.pixels {
            Pixels::Local(spreads) => {
                let spreads: Option<Vec<_>> =
                    spreads.iter().map(|s| if s.axis < 2 { None } else { along(s.axis - 2, *s) }).collect();
                spreads.map_or_else(|| self.whole(), Pixels::Local)
            }
            _ => self.mixed(),
        }
    }

    /// Kernel, strides, dilations and the padded shape of a convolution or pooling along the axes from 2 on.
    fn window(&self, x: &Value, kernel: Vec<usize>) -> Check<Window> {
        let rank = kernel.len();
        let sized = |key: &str| -> Check<Vec<usize>> {
            let Some(values) = self.node.ints(key) else { return Ok(vec![1; rank]) };
            if values.len() != rank || values.iter().any(|&v| v < 1) {
                return self.error(&format!("{key} {values:?} do not fit {rank} axes"));
            }
            Ok(values.iter().map(|&v| v as usize).collect())
        };
        if x.rank().is_some_and(|r| r != rank + 2) || kernel.contains(&0) {
            return self.error(&format!("a kernel {kernel:?} does not fit a tensor of shape {:?}", x.shape));
        }
        let (stride, dilation) = (sized("strides")?, sized("dilations")?);
        let pads = self.node.ints("pads").map_or_else(|| vec![0; 2 * rank], <[i64]>::to_vec);
        if pads.len() != 2 * rank || pads.iter().any(|&p| p < 0) {
            return self.error(&format!("pads {pads:?} do not fit {rank} axes"));
        }
        Ok(Window { kernel, stride, dilation, pads })
    }

    fn conv(&self, x: &Value) -> Check<Value> {
        let Some(weight) = self.input(1).and_then(|w| w.shape.clone()).filter(|w| w.len() >= 3) else {
            return self.error("it lacks a weight of a known shape");
        };
        let window = self.window(x, weight[2..].to_vec())?;
        let group = self.node.int("group", 1);
        if let Some(shape) = &x.shape
            && (group < 1
                || weight[1].checked_mul(group as usize) != Some(shape[1])
                || !weight[0].is_multiple_of(group as usize))
        {
            return self.error(&format!("a weight of shape {weight:?} in {group} groups does not fit {shape:?}"));
        }
        let (sides, offsets) = self.slide(&window, x, false)?;
        let shape = sides.map(|sides| [1, weight[0]].into_iter().chain(sides).collect::<Vec<_>>());
        let pixels = if self.inputs[1..].iter().copied().flatten().all(Value::is_free) {
            self.sliding(x, |axis, s| window.spread(axis, s, offsets[axis]))
        } else {
            self.mixed()
        };
        self.value(shape.map(|s| with_batch(s, x)), pixels)
    }

    fn pool(&self, x: &Value) -> Check<Value> {
        let Some(kernel) = self.node.ints("kernel_shape") else { return self.error("it lacks kernel_shape") };
        if kernel.iter().any(|&k| k < 1)
            || kernel.iter().try_fold(1i64, |n, &k| n.checked_mul(k)).is_none_or(|n| n > 1 << 16)
        {
            return self.error(&format!("kernel_shape {kernel:?} is out of range"));
        }
        let window = self.window(x, kernel.iter().map(|&k| k as usize).collect())?;
        let (sides, offsets) = self.slide(&window, x, self.node.int("ceil_mode", 0) != 0)?;
        let channels = x.shape.as_ref().map_or(1, |s| s[1]);
        let shape = sides.map(|sides| [1, channels].into_iter().chain(sides).collect::<Vec<_>>());
        let pixels = self.sliding(x, |axis, s| window.spread(axis, s, offsets[axis]));
        self.value(shape.map(|s| with_batch(s, x)), pixels)
    }

    /// Output sides of a window (`None`: input shape unknown) and the pad before each axis.
    fn slide(&self, window: &Window, x: &Value, ceil: bool) -> Check<(Option<Vec<usize>>, Vec<i64>)> {
        let rank = window.kernel.len();
        let mode = self.node.string("auto_pad", "NOTSET");
        let mut offsets = Vec::with_capacity(rank);
        let mut sides = Vec::with_capacity(rank);
        for axis in 0..rank {
            let reach = (window.kernel[axis] - 1).saturating_mul(window.dilation[axis]) as i64 + 1;
            let stride = window.stride[axis] as i64;
            let side = x.shape.as_ref().map(|s| s[axis + 2] as i64);
            let same = |side: i64| {
                let out = side.div_ceil_i64(stride);
                ((out - 1) * stride + reach - side).max(0)
            };
            let (before, after) = match (mode, side) {
                ("NOTSET" | "", _) => (window.pads[axis], window.pads[axis + rank]),
                ("VALID", _) => (0, 0),
                ("SAME_UPPER", Some(side)) => (same(side) / 2, same(side) - same(side) / 2),
                ("SAME_LOWER", Some(side)) => (same(side) - same(side) / 2, same(side) / 2),
                ("SAME_UPPER" | "SAME_LOWER", None) => (0, 0),
                _ => return self.error(&format!("auto_pad {mode:?} is unknown")),
            };
            offsets.push(before);
            let Some(side) = side else { continue };
            let free = side + before + after - reach;
            if free < 0 {
                return self.error(&format!("its kernel spans {reach} pixels, the padded tensor {}", free + reach));
            }
            let out = if ceil { free.div_ceil_i64(stride) } else { free / stride } + 1;
            sides.push(out as usize);
        }
        Ok((x.shape.is_some().then_some(sides), offsets))
    }

    fn conv_transpose(&self, x: &Value) -> Check<Value> {
        let Some(weight) = self.input(1).and_then(|w| w.shape.clone()).filter(|w| w.len() >= 3) else {
            return self.error("it lacks a weight of a known shape");
        };
        let window = self.window(x, weight[2..].to_vec())?;
        let rank = window.kernel.len();
        let group = self.node.int("group", 1);
        let Some(channels) = usize::try_from(group).ok().filter(|&g| g > 0).and_then(|g| weight[1].checked_mul(g))
        else {
            return self.error(&format!("group {group} is out of range"));
        };
        if x.shape.as_ref().is_some_and(|s| s[1] != weight[0]) {
            return self.error(&format!("a weight of shape {weight:?} does not fit {:?}", x.shape));
        }
        let extra = self.node.ints("output_padding").map_or_else(|| vec![0; rank], <[i64]>::to_vec);
        if extra.len() != rank || extra.iter().any(|&e| e < 0) {
            return self.error(&format!("output_padding {extra:?} does not fit {rank} axes"));
        }
        let wanted = self.node.ints("output_shape").map(|s| s[s.len().saturating_sub(rank)..].to_vec());
        if wanted.as_ref().is_some_and(|w| w.len() != rank) {
            return self.error("output_shape does not fit");
        }
        let mode = self.node.string("auto_pad", "NOTSET");
        let mut offsets = vec![];
        let mut sides = vec![];
        for axis in 0..rank {
            let reach = (window.kernel[axis] - 1).saturating_mul(window.dilation[axis]) as i64 + 1;
            let stride = window.stride[axis] as i64;
            let side = x.shape.as_ref().map(|s| s[axis + 2] as i64);
            let total = |side: i64, out: i64| (stride * (side - 1) + extra[axis] + reach - out).max(0);
            let target = match (mode, &wanted, side) {
                (_, Some(w), Some(_)) => Some(w[axis]),
                ("SAME_UPPER" | "SAME_LOWER", None, Some(side)) => Some(side * stride),
                _ => None,
            };
            let (before, after) = match (target, side) {
                (Some(target), Some(side)) if mode == "SAME_UPPER" => {
                    (total(side, target) / 2, total(side, target) - total(side, target) / 2)
                }
                (Some(target), Some(side)) => (total(side, target) - total(side, target) / 2, total(side, target) / 2),
                _ => (window.pads[axis], window.pads[axis + rank]),
            };
            offsets.push(before);
            if let Some(side) = side {
                let out = stride * (side - 1) + extra[axis] + reach - before - after;
                if out < 1 {
                    return self.error("its pads leave nothing of the result");
                }
                sides.push(out as usize);
            }
        }
        let shape = x.shape.as_ref().map(|s| [s[0], channels].into_iter().chain(sides).collect());
        let pixels = if self.inputs[1..].iter().copied().flatten().all(Value::is_free) {
            self.sliding(x, |axis, s| {
                // Element j gets elements (j + pad - k·dilation) / stride.
                let step = s.pitch.value() / window.stride[axis] as f64;
                let span = ((window.kernel[axis] - 1) * window.dilation[axis]) as f64;
                let pad = offsets[axis] as f64;
                let pitch = s.pitch.times(1, window.stride[axis])?;
                Some(Spread { pitch, low: s.low + step * (pad - span), high: s.high + step * pad, ..s })
            })
        } else {
            self.mixed()
        };
        self.value(shape, pixels)
    }

    fn resize(&self, x: &Value) -> Check<Value> {
        let (scales, sizes) = match (self.node.op.as_str(), self.graph.opset) {
            ("Upsample", _) | (_, ..=10) => (self.input(1), None),
            _ => (self.input(2), self.input(3)),
        };
        let Some(shape) = &x.shape else { return self.error("the size of its result cannot be bounded") };
        let axes: Vec<usize> = match self.node.ints("axes") {
            None => (0..shape.len()).collect(),
            Some(axes) => self.axes(axes, shape.len())?,
        };
        let scales = scales.and_then(|s| s.data.clone()).filter(|s| !s.is_empty());
        let sizes = sizes.and_then(Value::ints).filter(|s| !s.is_empty());
        let mut out = shape.clone();
        for (i, &axis) in axes.iter().enumerate() {
            out[axis] = match (&scales, &sizes) {
                (Some(s), _) if s.len() == axes.len() && s[i].is_finite() && s[i] > 0.0 => {
                    (shape[axis] as f64 * s[i]).floor().min(1e9) as usize
                }
                (None, Some(s)) if s.len() == axes.len() && s[i] > 0 => s[i] as usize,
                _ => return self.error("its scales or sizes cannot be told from the graph"),
            };
        }
        if out.contains(&0) {
            return self.error(&format!("it leaves nothing of a tensor of shape {shape:?}"));
        }
        if self.node.string("keep_aspect_ratio_policy", "stretch") != "stretch" {
            return self.value(None, self.whole_because("keeps the aspect ratio of the whole image"));
        }
        let Pixels::Local(spreads) = &x.pixels else { return self.value(Some(out), self.mixed()) };
        let mut result = vec![];
        for s in spreads {
            let (from, to) = (shape[s.axis], out[s.axis]);
            if from == to {
                result.push(*s);
                continue;
            }
            match self.resampled(*s, from, to) {
                Some(spread) => result.push(spread),
                None => {
                    let why = "places its pixels by the size of the whole image";
                    return self.value(Some(out), self.whole_because(why));
                }
            }
        }
        self.value(Some(out), Pixels::Local(result))
    }

    /// The spread after a Resize of an axis; `None` where it depends on the size of the axis.
    fn resampled(&self, s: Spread, from: usize, to: usize) -> Option<Spread> {
        let default = if self.node.op == "Upsample" || self.graph.opset <= 10 { "asymmetric" } else { "half_pixel" };
        let coordinates = self.node.string("coordinate_transformation_mode", default);
        let divisor = gcd(from as i64, to as i64) as usize;
        let (num, den) = (to / divisor, from / divisor);
        if num > 4096 {
            return None;
        }
        let factor = num as f64 / den as f64;
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        // Elements repeat with period num: every phase is tried.
        for j in 0..num {
            let place = match coordinates {
                "half_pixel" | "pytorch_half_pixel" | "half_pixel_symmetric" => (j as f64 + 0.5) / factor - 0.5,
                "asymmetric" => j as f64 / factor,
                _ => return None,
            };
            // In f32 a place may fall on either side of a whole number, unless the factor is whole.
            let slack = if den == 1 { 0.0 } else { 1e-3 };
            let widen = if self.node.int("antialias", 0) != 0 { (1.0 / factor).max(1.0) } else { 1.0 };
            let (a, b) = match self.node.string("mode", "nearest") {
                "nearest" => match self
                    .node
                    .string("nearest_mode", if self.graph.opset <= 10 { "floor" } else { "round_prefer_floor" })
                {
                    "floor" => (((place - slack).floor()), (place + slack).floor()),
                    "ceil" => ((place - slack).ceil(), (place + slack).ceil()),
                    _ => ((place - slack).round(), (place + slack).round()),
                },
                "linear" => ((place - widen + 1.0 - slack).floor(), (place + widen - 1.0 + slack).ceil()),
                "cubic" => ((place - 2.0 * widen + 1.0 - slack).floor(), (place + 2.0 * widen - 1.0 + slack).ceil()),
                _ => return None,
            };
            low = low.min(a - j as f64 / factor);
            high = high.max(b - j as f64 / factor);
        }
        let r = s.pitch.value();
        Some(Spread { pitch: s.pitch.times(den, num)?, low: s.low + r * low, high: s.high + r * high, ..s })
    }

    fn concat(&self) -> Check<Value> {
        let inputs: Vec<&Value> = self.inputs.iter().copied().flatten().collect();
        let data: Option<Vec<f64>> =
            inputs.iter().map(|v| v.data.clone()).collect::<Option<Vec<_>>>().map(|d| d.concat());
        let Some(shapes) = inputs.iter().map(|v| v.shape.as_ref()).collect::<Option<Vec<_>>>() else {
            return self.value(None, self.mixed());
        };
        let rank = shapes[0].len();
        let axis = self.axes(&[self.node.int("axis", 1)], rank)?[0];
        let mut out = shapes[0].clone();
        out[axis] = 0;
        for shape in &shapes {
            let fits = shape.len() == rank && (0..rank).all(|i| i == axis || shape[i] == out[i]);
            let Some(sum) = shape.get(axis).and_then(|&d| out[axis].checked_add(d)).filter(|_| fits) else {
                return self.error(&format!("shapes {shapes:?} do not fit each other"));
            };
            out[axis] = sum;
        }
        let mut pixels = self.combined(Some(&out));
        if let Pixels::Local(spreads) = &pixels
            && spreads.iter().any(|s| s.axis == axis)
        {
            pixels = self.whole_because("joins parts of the image");
        }
        let mut value = self.value(Some(out), pixels)?;
        value.data = data.filter(|d| rank <= 1 && d.len() <= MAX_DATA);
        Ok(value)
    }

    fn pad(&self, x: &Value) -> Check<Value> {
        let Some(shape) = &x.shape else { return self.error("the size of its result cannot be bounded") };
        let given = match self.node.ints("pads") {
            Some(pads) => pads.to_vec(),
            None => match self.input(1).and_then(Value::ints) {
                Some(pads) => pads,
                None => return self.error("its pads cannot be told from the graph"),
            },
        };
        let axes = match self.input(3).and_then(Value::ints) {
            Some(axes) => self.axes(&axes, shape.len())?,
            None => (0..shape.len()).collect(),
        };
        if given.len() != 2 * axes.len() || given.iter().any(|p| p.unsigned_abs() > 1 << 16) {
            return self.error(&format!("pads {given:?} do not fit a tensor of shape {shape:?}"));
        }
        let mut before = vec![0; shape.len()];
        let mut out = shape.clone();
        for (i, &axis) in axes.iter().enumerate() {
            before[axis] = given[i];
            let side = shape[axis] as i64 + given[i] + given[i + axes.len()];
            if side < 1 {
                return self.error(&format!("pads {given:?} leave nothing of a tensor of shape {shape:?}"));
            }
            out[axis] = side as usize;
        }
        let local = !matches!(self.node.string("mode", "constant"), "wrap");
        let pixels = match &x.pixels {
            Pixels::Local(spreads) if local => {
                let moved = spreads.iter().map(|s| {
                    let shift = s.pitch.value() * before[s.axis] as f64;
                    Spread { low: s.low - shift, high: s.high - shift, ..*s }
                });
                Pixels::Local(moved.collect())
            }
            _ => self.mixed(),
        };
        self.value(Some(out), pixels)
    }

    fn slice(&self, x: &Value) -> Check<Value> {
        let Some(shape) = &x.shape else { return self.value(None, self.mixed()) };
        let list = |key: &str, index: usize| match self.node.ints(key) {
            Some(values) => Some(values.to_vec()),
            None => self.input(index).and_then(Value::ints),
        };
        let (Some(starts), Some(ends)) = (list("starts", 1), list("ends", 2)) else {
            return self.value(None, self.mixed());
        };
        let axes = match list("axes", 3) {
            Some(axes) => self.axes(&axes, shape.len())?,
            None => (0..starts.len().min(shape.len())).collect(),
        };
        let steps = list("steps", 4).unwrap_or_else(|| vec![1; axes.len()]);
        if [starts.len(), ends.len(), steps.len()].iter().any(|&n| n != axes.len()) || steps.contains(&0) {
            return self.error("its starts, ends, axes and steps do not fit each other");
        }
        let mut out = shape.clone();
        let mut pixels = x.pixels.clone();
        let mut picks = vec![(0, 1); shape.len()];
        for (i, &axis) in axes.iter().enumerate() {
            let side = shape[axis] as i64;
            let (step, last) = (steps[i], if steps[i] > 0 { (0, side) } else { (-1, side - 1) });
            let clamp = |v: i64| if v < 0 { v.saturating_add(side) } else { v }.clamp(last.0, last.1);
            let (start, end) = (clamp(starts[i]), clamp(ends[i]));
            let count = if step > 0 {
                (end - start).max(0).div_ceil_i64(step)
            } else {
                (start - end).max(0).div_ceil_i64(step.saturating_neg())
            };
            out[axis] = count as usize;
            picks[axis] = (start, step);
            if let Pixels::Local(spreads) = &mut pixels
                && let Some(s) = spreads.iter_mut().find(|s| s.axis == axis)
            {
                let pitch = if step > 0 { s.pitch.times(step as usize, 1) } else { None };
                let Some(pitch) = pitch else {
                    pixels = self.whole_because("reverses the image");
                    continue;
                };
                let shift = s.pitch.value() * start as f64;
                *s = Spread { pitch, low: s.low + shift, high: s.high + shift, ..*s };
            }
        }
        let mut value = self.value(Some(out), pixels)?;
        value.data = x.picked(&value, |place| {
            place.iter().zip(&picks).map(|(&i, (start, step))| (start + i as i64 * step) as usize).collect()
        });
        Ok(value)
    }

    fn split(&self) -> Check<Vec<Value>> {
        let Some(x) = self.input(0) else { return self.error("it lacks an input") };
        let n = self.node.outputs.len();
        let Some(shape) = &x.shape else {
            return vec![(); n].iter().map(|()| self.value(None, self.mixed())).collect();
        };
        let axis = self.axes(&[self.node.int("axis", 0)], shape.len())?[0];
        let given = self.node.ints("split").map(<[i64]>::to_vec).or_else(|| self.input(1).and_then(Value::ints));
        let side = shape[axis];
        let sizes: Vec<usize> = match given {
            Some(sizes) => sizes.iter().map(|&s| usize::try_from(s).unwrap_or(usize::MAX)).collect(),
            None => {
                let part = side.div_ceil(n);
                (0..n).map(|i| side.saturating_sub(i * part).min(part)).collect()
            }
        };
        if sizes.len() != n || sizes.iter().try_fold(0usize, |a, &b| a.checked_add(b)) != Some(side) {
            return self.error(&format!("parts {sizes:?} do not fit {n} results of an axis of {side}"));
        }
        let pixels = match &x.pixels {
            Pixels::Local(spreads) if spreads.iter().any(|s| s.axis == axis) => self.whole_because("cuts the image"),
            pixels => pixels.clone(),
        };
        let part = |size: &usize| {
            let mut part = shape.clone();
            part[axis] = *size;
            self.value(Some(part), pixels.clone())
        };
        sizes.iter().map(part).collect()
    }

    fn depth_to_space(&self, x: &Value) -> Check<Value> {
        let block = self.block()?;
        let Some(shape) = x.shape.as_ref().filter(|s| s.len() == 4 && s[1].is_multiple_of(block * block)) else {
            return self.error(&format!("blocks of {block} do not fit a tensor of shape {:?}", x.shape));
        };
        let out = vec![shape[0], shape[1] / (block * block), shape[2] * block, shape[3] * block];
        let pixels = self.sliding(x, |_, s| {
            let step = s.pitch.value() / block as f64;
            Some(Spread { pitch: s.pitch.times(1, block)?, low: s.low - step * (block - 1) as f64, ..s })
        });
        self.value(Some(out), pixels)
    }

    fn space_to_depth(&self, x: &Value) -> Check<Value> {
        let block = self.block()?;
        let fits = |s: &&Vec<usize>| s.len() == 4 && s[2].is_multiple_of(block) && s[3].is_multiple_of(block);
        let Some(shape) = x.shape.as_ref().filter(fits) else {
            return self.error(&format!("blocks of {block} do not fit a tensor of shape {:?}", x.shape));
        };
        let out = vec![shape[0], shape[1].saturating_mul(block * block), shape[2] / block, shape[3] / block];
        let pixels = self.sliding(x, |_, s| {
            let span = s.pitch.value() * (block - 1) as f64;
            Some(Spread { pitch: s.pitch.times(block, 1)?, high: s.high + span, ..s })
        });
        self.value(Some(out), pixels)
    }

    fn block(&self) -> Check<usize> {
        match self.node.int("blocksize", 0) {
            block @ 1..=256 => Ok(block as usize),
            block => self.error(&format!("blocksize {block} is out of range")),
        }
    }

    fn transpose(&self, x: &Value) -> Check<Value> {
        let Some(shape) = &x.shape else { return self.value(None, self.mixed()) };
        let rank = shape.len();
        let perm: Vec<usize> = match self.node.ints("perm") {
            None => (0..rank).rev().collect(),
            Some(perm) => self.axes(perm, rank)?,
        };
        if perm.len() != rank || (0..rank).any(|axis| !perm.contains(&axis)) {
            return self.error(&format!("perm {perm:?} does not fit {rank} axes"));
        }
        let out = perm.iter().map(|&p| shape[p]).collect();
        let moved = |s: &Spread| Spread { axis: perm.iter().position(|&p| p == s.axis).unwrap_or(0), ..*s };
        let pixels = match &x.pixels {
            Pixels::Local(spreads) => Pixels::Local(spreads.iter().map(moved).collect()),
            _ => self.mixed(),
        };
        let mut value = self.value(Some(out), pixels)?;
        value.data = x.picked(&value, |place| {
            let mut from = vec![0; rank];
            perm.iter().zip(place).for_each(|(&axis, &i)| from[axis] = i);
            from
        });
        Ok(value)
    }

    fn reshape(&self, x: &Value) -> Check<Value> {
        let Some(shape) = &x.shape else { return self.value(None, self.mixed()) };
        let total: usize = shape.iter().product();
        let out = if self.node.op == "Flatten" {
            let axis = self.node.int("axis", 1);
            let axis = if axis < 0 { axis.saturating_add(shape.len() as i64) } else { axis };
            let Some(axis) = usize::try_from(axis).ok().filter(|&a| a <= shape.len()) else {
                return self.error(&format!("axis {axis} is out of range"));
            };
            vec![shape[..axis].iter().product(), shape[axis..].iter().product()]
        } else {
            let wanted = match self.node.ints("shape") {
                Some(shape) => Some(shape.to_vec()),
                None => self.input(1).and_then(Value::ints),
            };
            let Some(wanted) = wanted else { return self.value(None, self.mixed()) };
            let copied = |(i, &d): (usize, &i64)| match d {
                0 if self.node.int("allowzero", 0) == 0 => shape.get(i).copied(),
                -1 => Some(1),
                d => usize::try_from(d).ok(),
            };
            let Some(mut out) = wanted.iter().enumerate().map(copied).collect::<Option<Vec<_>>>() else {
                return self.error(&format!("a tensor of shape {shape:?} cannot become {wanted:?}"));
            };
            let known = out.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).filter(|&n| n > 0);
            if let (Some(free), Some(known)) = (wanted.iter().position(|&d| d == -1), known) {
                out[free] = total / known;
            }
            if out.iter().try_fold(1usize, |n, &d| n.checked_mul(d)) != Some(total) {
                return self.error(&format!("a tensor of shape {shape:?} cannot become {wanted:?}"));
            }
            out
        };
        // An axis survives where as many elements follow it as before: its index is (flat index / that) mod its length.
        let after = |shape: &[usize], axis: usize| shape[axis + 1..].iter().product::<usize>();
        let survives = |s: &Spread| {
            let axis =
                (0..out.len()).find(|&axis| out[axis] == shape[s.axis] && after(&out, axis) == after(shape, s.axis))?;
            Some(Spread { axis, ..*s })
        };
        let pixels = match &x.pixels {
            Pixels::Local(spreads) => {
                let spreads: Option<Vec<_>> = spreads.iter().map(survives).collect();
                spreads.map_or_else(|| self.whole_because("reshapes the image"), Pixels::Local)
            }
            _ => self.mixed(),
        };
        let pixels = self.laid_out(pixels, &out);
        self.value(Some(out), pixels)
    }

    /// Norms are often spelt as Reshape, norm, Reshape: the result has a grid again. It depends on the whole image
    /// all the same, but the strides must not be forgotten.
    fn laid_out(&self, pixels: Pixels, shape: &[usize]) -> Pixels {
        let sides = if shape.len() == self.side.len() + 2 { &shape[2..] } else { &[] };
        let whole = matches!(&pixels, Pixels::Whole(_));
        if !whole || sides.is_empty() || sides.iter().any(|&s| s <= 1) {
            return pixels;
        }
        let grid = sides.iter().zip(self.side).enumerate().map(|(i, (&to, &from))| {
            Some(Spread { axis: i + 2, pitch: Pitch::ONE.times(from, to)?, low: 0.0, high: 0.0 }.unbounded())
        });
        grid.collect::<Option<Vec<_>>>().map_or(pixels, Pixels::Local)
    }

    fn squeeze(&self, x: &Value) -> Check<Value> {
        let Some(shape) = &x.shape else { return self.value(None, self.mixed()) };
        let given = self.node.ints("axes").map(<[i64]>::to_vec).or_else(|| self.input(1).and_then(Value::ints));
        let mut out = vec![];
        // Where each axis of the input goes.
        let mut place = vec![];
        if self.node.op == "Squeeze" {
            let axes = match given {
                Some(axes) => self.axes(&axes, shape.len())?,
                None if self.inputs.len() > 1 => return self.value(None, self.mixed()),
                None => (0..shape.len()).filter(|&i| shape[i] == 1).collect(),
            };
            for (axis, &d) in shape.iter().enumerate() {
                if axes.contains(&axis) {
                    if d != 1 {
                        return self.error(&format!("it cannot drop axis {axis} of {shape:?}"));
                    }
                    place.push(None);
                } else {
                    place.push(Some(out.len()));
                    out.push(d);
                }
            }
        } else {
            let Some(given) = given else { return self.value(None, self.mixed()) };
            let axes = self.axes(&given, shape.len() + given.len())?;
            let mut rest = shape.iter();
            for axis in 0..shape.len() + axes.len() {
                if axes.contains(&axis) {
                    out.push(1);
                } else if let Some(&d) = rest.next() {
                    place.push(Some(out.len()));
                    out.push(d);
                }
            }
        }
        let pixels = match &x.pixels {
            Pixels::Local(spreads) => {
                let moved: Option<Vec<_>> = spreads
                    .iter()
                    .map(|s| place.get(s.axis).copied().flatten().map(|axis| Spread { axis, ..*s }))
                    .collect();
                moved.map_or_else(|| self.whole(), Pixels::Local)
            }
            _ => self.mixed(),
        };
        self.value(Some(out), pixels)
    }

    fn gather(&self, x: &Value) -> Check<Value> {
        let (Some(shape), Some(index)) = (&x.shape, self.input(1)) else { return self.value(None, self.mixed()) };
        let Some(picked) = &index.shape else { return self.value(None, self.mixed()) };
        let axis = self.axes(&[self.node.int("axis", 0)], shape.len())?[0];
        let out: Vec<usize> = shape[..axis].iter().chain(picked).chain(&shape[axis + 1..]).copied().collect();
        let moved = |s: &Spread| match s.axis.cmp(&axis) {
            std::cmp::Ordering::Less => Some(*s),
            std::cmp::Ordering::Equal => None,
            std::cmp::Ordering::Greater => Some(Spread { axis: s.axis - 1 + picked.len(), ..*s }),
        };
        let pixels = match &x.pixels {
            Pixels::Local(spreads) if index.is_free() => {
                let spreads: Option<Vec<_>> = spreads.iter().map(moved).collect();
                spreads.map_or_else(|| self.whole_because("picks single pixels"), Pixels::Local)
            }
            _ => self.mixed(),
        };
        let mut value = self.value(Some(out), pixels)?;
        if let (Some(data), Some(indices), 1) = (&x.data, index.ints(), shape.len()) {
            let at = |i: i64| data.get(usize::try_from(if i < 0 { i + data.len() as i64 } else { i }).ok()?).copied();
            value.data = indices.into_iter().map(at).collect();
        }
        Ok(value)
    }

    fn expand(&self, x: &Value) -> Check<Value> {
        let (Some(shape), Some(wanted)) = (&x.shape, self.input(1).and_then(Value::ints)) else {
            return self.error("the size of its result cannot be bounded");
        };
        let wanted: Option<Vec<usize>> = wanted.iter().map(|&d| usize::try_from(d).ok()).collect();
        let out = wanted.as_ref().and_then(|wanted| {
            if self.node.op == "Expand" {
                return broadcast(shape, wanted);
            }
            if wanted.len() != shape.len() {
                return None;
            }
            shape.iter().zip(wanted).map(|(a, b)| a.checked_mul(*b)).collect()
        });
        let Some(out) = out else { return self.error(&format!("it cannot make {wanted:?} of {shape:?}")) };
        let pixels = match &x.pixels {
            Pixels::Local(spreads) => {
                let shift = out.len() - shape.len();
                let moved: Vec<_> = spreads.iter().map(|s| Spread { axis: s.axis + shift, ..*s }).collect();
                let kept = spreads.iter().zip(&moved).all(|(s, m)| shape[s.axis] == out[m.axis]);
                if kept { Pixels::Local(moved) } else { self.whole() }
            }
            _ => self.mixed(),
        };
        self.value(Some(out), pixels)
    }

    fn size_of(&self, x: &Value) -> Pixels {
        match x.pixels {
            Pixels::Free { sized } => Pixels::Free { sized },
            _ => Pixels::Free { sized: true },
        }
    }

    fn shape(&self, x: &Value) -> Check<Value> {
        let Some(shape) = &x.shape else { return self.value(None, Pixels::Free { sized: true }) };
        let rank = shape.len() as i64;
        let place = |v: i64| if v < 0 { v.saturating_add(rank) } else { v }.clamp(0, rank) as usize;
        let (start, end) = (place(self.node.int("start", 0)), place(self.node.int("end", rank)));
        let part = shape.get(start..end.max(start)).unwrap_or(&[]);
        let mut value = self.value(Some(vec![part.len()]), self.size_of(x))?;
        value.data = Some(part.iter().map(|&d| d as f64).collect());
        Ok(value)
    }

    fn constant_of_shape(&self, x: &Value) -> Check<Value> {
        let Some(shape) = x.ints() else { return self.error("the size of its result cannot be bounded") };
        let Some(shape) = shape.iter().map(|&d| usize::try_from(d).ok()).collect::<Option<Vec<_>>>() else {
            return self.error(&format!("it cannot make a tensor of shape {shape:?}"));
        };
        let fill = self.node.floats("value").and_then(|v| v.first()).map_or(0.0, |&v| f64::from(v));
        let mut value = self.value(Some(shape), self.mixed())?;
        value.data = value.elements().filter(|&n| n <= MAX_DATA).map(|n| vec![fill; n]);
        // The same value everywhere: its size says nothing.
        if value.is_free() {
            value.pixels = Pixels::Free { sized: matches!(x.pixels, Pixels::Free { sized: true }) };
        }
        Ok(value)
    }

    fn range(&self, start: &Value) -> Check<Value> {
        let one = |v: Option<&Value>| v.and_then(|v| v.data.as_ref()).and_then(|d| d.first().copied());
        let (Some(a), Some(b), Some(step)) = (one(Some(start)), one(self.input(1)), one(self.input(2))) else {
            return self.error("the size of its result cannot be bounded");
        };
        let count = ((b - a) / step).ceil().max(0.0);
        if !count.is_finite() || count > MAX_ELEMENTS as f64 {
            return self.error(&format!("it counts from {a} to {b} by {step}"));
        }
        let mut value = self.value(Some(vec![count as usize]), self.mixed())?;
        value.data = (count as usize <= MAX_DATA).then(|| (0..count as usize).map(|i| a + i as f64 * step).collect());
        Ok(value)
    }

    /// Operators that mix what lies along one axis, or all from one axis on.
    fn along_axis(&self, x: &Value) -> Pixels {
        let Pixels::Local(spreads) = &x.pixels else { return self.blamed() };
        if !self.inputs[1..].iter().copied().flatten().all(Value::is_free) {
            return self.mixed();
        }
        let rank = x.rank().unwrap_or(0) as i64;
        let old_softmax = self.graph.opset < 13 && self.node.op.to_ascii_lowercase().ends_with("max");
        let from_on = old_softmax || self.node.op.ends_with("LayerNormalization") || self.node.op == "RMSNormalization";
        let axis = match self.input(1).and_then(Value::ints) {
            Some(axis) if self.node.op == "CumSum" => axis.first().copied().unwrap_or(0),
            _ => self.node.int("axis", if old_softmax { 1 } else { -1 }),
        };
        let axis = if axis < 0 { axis.saturating_add(rank) } else { axis };
        let hit = |s: &Spread| if from_on { s.axis as i64 >= axis } else { s.axis as i64 == axis };
        if spreads.iter().any(hit) || (self.node.op == "CumSum" && self.input(1).is_none_or(|v| v.data.is_none())) {
            self.unbounded(x)
        } else {
            x.pixels.clone()
        }
    }

    fn reduce(&self, x: &Value) -> Check<Value> {
        let Some(shape) = &x.shape else { return self.value(None, self.blamed()) };
        let rank = shape.len();
        let arg = self.node.op.starts_with("Arg");
        let axes = if arg {
            Some(vec![self.node.int("axis", 0)])
        } else {
            self.node.ints("axes").map(<[i64]>::to_vec).or_else(|| self.input(1).and_then(Value::ints))
        };
        let axes = match axes {
            Some(axes) if !axes.is_empty() => self.axes(&axes, rank)?,
            None if self.input(1).is_some() => return self.value(None, self.blamed()),
            _ if self.node.int("noop_with_empty_axes", 0) != 0 => vec![],
            _ => (0..rank).collect(),
        };
        let keep = self.node.int("keepdims", 1) != 0;
        let kept = |axis: usize| (0..axis).filter(|a| !axes.contains(a)).count();
        let out = if keep {
            (0..rank).map(|i| if axes.contains(&i) { 1 } else { shape[i] }).collect()
        } else {
            (0..rank).filter(|i| !axes.contains(i)).map(|i| shape[i]).collect()
        };
        let pixels = match &x.pixels {
            Pixels::Local(spreads) if !spreads.iter().any(|s| axes.contains(&s.axis)) => {
                let moved = spreads.iter().map(|s| Spread { axis: if keep { s.axis } else { kept(s.axis) }, ..*s });
                Pixels::Local(moved.collect())
            }
            _ => self.blamed(),
        };
        self.value(Some(out), pixels)
    }

    fn matmul(&self, a: &Value) -> Check<Value> {
        let (Some(left), Some(b)) = (&a.shape, self.input(1)) else { return self.value(None, self.mixed()) };
        let Some(right) = &b.shape else { return self.value(None, self.mixed()) };
        let (m, n) = (left.len(), right.len());
        if m < 2 || n < 2 {
            return self.value(None, self.mixed());
        }
        let batch = broadcast(&left[..m - 2], &right[..n - 2]);
        let Some(mut out) = batch.filter(|_| left[m - 1] == right[n - 2]) else {
            return self.error(&format!("shapes {left:?} and {right:?} do not fit each other"));
        };
        out.extend([left[m - 2], right[n - 1]]);
        // Pixels times a constant matrix: a dense layer over the last axis.
        let pixels = match &a.pixels {
            Pixels::Local(spreads)
                if matches!(b.pixels, Pixels::Free { sized: false })
                    && n == 2
                    && spreads.iter().all(|s| s.axis != m - 1) =>
            {
                a.pixels.clone()
            }
            _ => self.mixed(),
        };
        self.value(Some(out), pixels)
    }

    fn gemm(&self, a: &Value) -> Check<Value> {
        let side = |v: Option<&Value>, key: &str, index: usize| {
            let shape = v?.shape.as_ref().filter(|s| s.len() == 2)?;
            Some(shape[if self.node.int(key, 0) == 0 { index } else { 1 - index }])
        };
        let shape = side(Some(a), "transA", 0).zip(side(self.input(1), "transB", 1)).map(|(m, n)| vec![m, n]);
        self.value(shape, self.mixed())
    }

    /// Axes counted from the end made plain.
    fn axes(&self, axes: &[i64], rank: usize) -> Check<Vec<usize>> {
        let plain = |&axis: &i64| {
            let axis = if axis < 0 { axis.saturating_add(rank as i64) } else { axis };
            usize::try_from(axis).ok().filter(|&a| a < rank)
        };
        match axes.iter().map(plain).collect() {
            Some(axes) => Ok(axes),
            None => self.error(&format!("axes {axes:?} do not fit {rank} axes")),
        }
    }
}

/// A window that slides over the axes from 2 on.
struct Window {
    kernel: Vec<usize>,
    stride: Vec<usize>,
    dilation: Vec<usize>,
    pads: Vec<i64>,
}

impl Window {
    /// Element j reads elements stride·j − pad + k·dilation.
    fn spread(&self, axis: usize, s: Spread, pad: i64) -> Option<Spread> {
        let r = s.pitch.value();
        let span = (self.kernel[axis] - 1).checked_mul(self.dilation[axis])? as f64;
        let pitch = s.pitch.times(self.stride[axis], 1)?;
        Some(Spread { pitch, low: s.low - r * pad as f64, high: s.high + r * (span - pad as f64), ..s })
    }
}

/// `div_ceil` of non-negative integers, which std has for signed ones on nightly alone.
trait DivCeil {
    fn div_ceil_i64(self, by: i64) -> i64;
}

impl DivCeil for i64 {
    fn div_ceil_i64(self, by: i64) -> i64 {
        self.div_euclid(by) + i64::from(self.rem_euclid(by) != 0)
    }
}

/// Puts the batch length of `x` in front.
fn with_batch(mut shape: Vec<usize>, x: &Value) -> Vec<usize> {
    shape[0] = x.shape.as_ref().map_or(1, |s| s[0]);
    shape
}

/// ONNX's (numpy's) broadcasting.
fn broadcast(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let rank = a.len().max(b.len());
    let at = |s: &[usize], i: usize| (i + s.len()).checked_sub(rank).map_or(1, |i| s[i]);
    (0..rank)
        .map(|i| match (at(a, i), at(b, i)) {
            (x, y) if x == y => Some(x),
            (1, y) => Some(y),
            (x, 1) => Some(x),
            _ => None,
        })
        .collect()
}

/// Both neighbourhoods together; `None` where the grids differ.
fn join(a: &[Spread], b: &[Spread]) -> Option<Vec<Spread>> {
    let joined = a.iter().zip(b).map(|(a, b)| {
        (a.axis == b.axis && a.pitch == b.pitch).then(|| Spread {
            low: a.low.min(b.low),
            high: a.high.max(b.high),
            ..*a
        })
    });
    joined.collect()
}
