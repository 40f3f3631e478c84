//! The convolutions of VGG16 (Simonyan and Zisserman 2015) for the content loss, with torchvision's variable names, from a
//! .safetensors file. Grey images (N, 1, Y, X, about 0 to 1) are shown as three equal channels and normalised as the
//! images of ImageNet were; values beyond 0 to 1 are kept, since a bound would stop the gradient there. Its weights never
//! change.

use anyhow::{Context, Result, bail, ensure};
use std::collections::HashMap;
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// Convolutions, each with its ReLU, before each 2×2 maximum.
const BLOCKS: [usize; 5] = [2, 2, 3, 3, 3];
/// Mean and deviation of ImageNet's images, as torchvision's weights expect them.
const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const DEVIATION: [f32; 3] = [0.229, 0.224, 0.225];

/// How to make the file.
pub const RECIPE: &str = "python -c \"import torchvision, safetensors.torch as s; \
    s.save_file(torchvision.models.vgg16(weights='IMAGENET1K_V1').features.state_dict(prefix='features.'), \
    'vgg16.safetensors')\"";

/// One step of the network.
#[derive(Debug)]
enum Step {
    /// A convolution with its ReLU, and whether its result is wanted.
    Conv { weight: Tensor, bias: Tensor, wanted: bool },
    /// Maximum of 2×2 pixels.
    Pool,
}

/// VGG16 as far as the last layer that is wanted.
#[derive(Debug)]
pub struct Vgg16 {
    steps: Vec<Step>,
    mean: Tensor,
    deviation: Tensor,
    kind: Kind,
}

impl Vgg16 {
    /// Reads the file. `layers`: what [`Vgg16::features`] gives, such as `relu3_3`, the third ReLU before the third
    /// maximum; convolutions run in `kind`.
    ///
    /// # Errors
    /// Where a layer does not exist, and where the file cannot be read or does not hold VGG16: it tells how to make one.
    /// The numbers of features are taken from the file; they need only fit each other.
    pub fn load(path: &Path, layers: &[String], device: Device, kind: Kind) -> Result<Self> {
        let tensors = Tensor::read_safetensors(path);
        tensors
            .map_err(anyhow::Error::from)
            .and_then(|tensors| Self::new(&tensors.into_iter().collect(), layers, device, kind))
            .with_context(|| format!("VGG16 from {}; to make the file: {RECIPE}", path.display()))
    }

    fn new(tensors: &HashMap<String, Tensor>, layers: &[String], device: Device, kind: Kind) -> Result<Self> {
        ensure!(!layers.is_empty(), "expected at least one layer for the content loss, such as relu3_3");
        let mut missing: Vec<&str> = layers.iter().map(String::as_str).collect();
        let (mut steps, mut index, mut channels) = (Vec::new(), 0, MEAN.len() as i64);
        'blocks: for (block, convs) in BLOCKS.into_iter().enumerate() {
            for number in 0..convs {
                let layer = format!("relu{}_{}", block + 1, number + 1);
                let wanted = missing.contains(&layer.as_str());
                missing.retain(|name| *name != layer);
                let name = format!("features.{index}");
                let parameter = |part| {
                    let name = format!("{name}.{part}");
                    let tensor = tensors.get(&name).with_context(|| format!("{name} is missing"))?;
                    Ok::<_, anyhow::Error>((tensor.to_device(device).to_kind(kind), tensor.size()))
                };
                let ((weight, shape), (bias, outputs)) = (parameter("weight")?, parameter("bias")?);
                let [features] = outputs[..] else { bail!("{name}.bias has shape {outputs:?}, expected one axis") };
                let expected = [features, channels, 3, 3];
                ensure!(shape == expected, "{name}.weight has shape {shape:?}, expected {expected:?}");
                steps.push(Step::Conv { weight, bias, wanted });
                if missing.is_empty() {
                    break 'blocks;
                }
                channels = features;
                index += 2;
            }
            steps.push(Step::Pool);
            index += 1;
        }
        ensure!(missing.is_empty(), "there is no layer {}: expected relu1_1 to relu5_3", missing.join(", "));
        let values = |values: [f32; 3]| Tensor::from_slice(&values).reshape([1, 3, 1, 1]).to_device(device);
        Ok(Self { steps, mean: values(MEAN), deviation: values(DEVIATION), kind })
    }

    /// What the wanted layers give, in their order in the network: N, C, Y, X with half the sides after each maximum.
    /// `image`: f32, N, 1, Y, X. The gradient reaches the image, and no weight.
    pub fn features(&self, image: &Tensor) -> Vec<Tensor> {
        let mut x = ((image - &self.mean) / &self.deviation).to_kind(self.kind);
        let mut features = Vec::new();
        for step in &self.steps {
            match step {
                Step::Pool => x = x.max_pool2d([2, 2], [2, 2], [0, 0], [1, 1], false),
                Step::Conv { weight, bias, wanted } => {
                    x = x.conv2d(weight, Some(bias), 1, 1, 1, 1).relu();
                    if *wanted {
                        features.push(x.shallow_clone());
                    }
                }
            }
        }
        features
    }
}
