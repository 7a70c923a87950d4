//! Several changes that are made together, or none of them. Each sees what the ones before it have done.

use super::{Change, PersistencePlan};
use crate::model::{Model, error::ApiError};

/// What the changes of a batch do to what runs, and to the file where they are made for good.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The running model after the changes.
    pub running: Model,
    /// The file after them; `None` where they are not written.
    pub saved: Option<SavedBatch>,
}

/// What the changes of a batch do to the file.
#[derive(Clone, Debug)]
pub struct SavedBatch {
    /// The file's model after the changes, or why one of them does not fit it.
    pub model: Result<Model, ApiError>,
    /// The changes as they are made to the file.
    pub changes: Vec<Change>,
}

impl Batch {
    /// A batch without changes. The models are what runs and, where the changes are to be written, what the file says.
    #[must_use]
    pub fn new(running: &Model, saved: Option<&Model>) -> Self {
        Self {
            running: running.clone(),
            saved: saved.map(|model| SavedBatch {
                model: Ok(model.clone()),
                changes: Vec::new(),
            }),
        }
    }

    /// Makes a change. That it fits what runs and not the file is found in [`SavedBatch::model`].
    ///
    /// # Errors
    /// What the change names does not exist, or what it adds exists already. The batch is spoilt.
    pub fn add(&mut self, change: &Change) -> Result<(), ApiError> {
        let running = &mut self.running;
        let Some(file) = &mut self.saved else {
            return change.apply(&mut running.services);
        };
        let Ok(model) = &mut file.model else {
            return change.apply(&mut running.services);
        };
        let plan = PersistencePlan::new(change, running, model);
        if let Some(change) = plan.running {
            change.apply(&mut running.services)?;
        }
        match plan.saved.apply(&mut model.services) {
            Ok(()) => file.changes.push(plan.saved),
            Err(refusal) => file.model = Err(refusal),
        }
        Ok(())
    }
}
