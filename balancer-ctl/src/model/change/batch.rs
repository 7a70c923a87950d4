//! Several changes that are made together, or none of them. Each sees what the ones before it have done.

use super::{Change, PersistencePlan};
use crate::model::{Model, error::ApiError};

/// What the changes of a batch make of the running model, and of the file's if they are written.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The running model after the changes.
    pub running: Model,
    /// The file after them; `None` if they are not written.
    pub saved: Option<SavedBatch>,
}

/// What the changes of a batch make of the file.
#[derive(Clone, Debug)]
pub struct SavedBatch {
    /// The file's model after the changes, or why one of them does not fit it.
    pub model: Result<Model, ApiError>,
    /// The changes as they are made to the file.
    pub changes: Vec<Change>,
}

impl Batch {
    /// A batch without changes, on the running model and, if the changes are to be written, the file's.
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

    /// Makes a change. If it fits the running model but not the file's, [`SavedBatch::model`] holds the refusal.
    ///
    /// # Errors
    /// What the change names does not exist, or what it adds exists already. The batch must not be used any more.
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
