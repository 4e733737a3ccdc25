//! temporary
use crate::encoders::Stem; use crate::methods::Projector; use crate::view::View; use crate::error::*;
use serde::{Serialize,Deserialize};
#[derive(Clone,Serialize,Deserialize)] pub struct Recipe { pub encoder: E, pub method: M, pub optim: O, pub train: T, pub view: View }
#[derive(Clone,Serialize,Deserialize)] pub struct E { pub arch: String, pub stem: Stem, pub size: usize }
#[derive(Clone,Serialize,Deserialize)] pub struct M { pub name: String, pub temperature: f32, pub projector: Projector }
#[derive(Clone,Serialize,Deserialize)] pub struct O { pub name: String, pub lr: f32, pub lr_scaling: String, pub weight_decay: f32, pub momentum: f32, pub betas: [f32;2], pub eps: f32, pub trust: f32, pub warmup_epochs: f32, pub schedule: String }
#[derive(Clone,Serialize,Deserialize)] pub struct T { pub epochs: usize, pub batch: usize }
impl Recipe { pub fn train_view(&self) -> Result<View> { Ok(self.view.clone()) } }
