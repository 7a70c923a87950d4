//! All services replaced at once, or what that would change.

use super::{Daemon, Scope};
use crate::{
    config::file::PreviousFile,
    model::{
        Model,
        change::{Change, SavedBatch, WantedService, changes_to, require_possible},
        diff::{Event, model_diff},
        error::ApiError,
        view,
    },
};

/// The services that are wanted in place of all that there are.
#[derive(Debug)]
pub struct Replacement {
    /// They.
    pub services: Vec<WantedService>,
    /// Whether they are written to the file.
    pub scope: Scope,
    /// Whether nothing is changed, and only told what would be.
    pub is_dry_run: bool,
}

impl Daemon {
    /// Makes the services those that are wanted, all or none, with one write of the file. Returns what changes, a line each; nothing
    /// if they are so already.
    ///
    /// # Errors
    /// The result is refused, or it would be written to a file whose services another node sends; nothing was changed.
    pub(super) fn replace(
        &mut self,
        replacement: Replacement,
    ) -> Result<view::ChangeResult, ApiError> {
        let Replacement {
            services,
            scope,
            is_dry_run,
        } = replacement;
        let file = self.file_to_write(scope)?;
        require_possible(&services)?;
        let changes = changes_to(&self.model.services, &services);
        let saved = file.map(|file| changes_to(&file.model().services, &services));
        let writes = saved.as_ref().is_some_and(|changes| !changes.is_empty());
        if changes.is_empty() && !writes {
            return Ok(view::ChangeResult::default());
        }
        let (running, saved) = self.models_after(&changes, saved)?;
        let events = model_diff(&self.model, &running).into_iter();
        let mut notes: Vec<_> = events.map(Event::line).collect();
        if notes.is_empty() {
            notes.push("only the configuration file changes: what it says runs already".to_owned());
        }
        let added = changes.iter().filter_map(Change::new_vip).collect();
        let previous = if is_dry_run {
            self.prepare_models(running, saved)?;
            PreviousFile::NotReplaced
        } else {
            self.run_models(running, saved)?
        };
        Ok(view::ChangeResult {
            notes,
            warnings: self.warnings(previous, added),
        })
    }

    /// What changes make of the running model, and others of the file's, if they are to be written.
    ///
    /// # Errors
    /// One does not fit the running model.
    pub(super) fn models_after(
        &mut self,
        changes: &[Change],
        saved: Option<Vec<Change>>,
    ) -> Result<(Model, Option<SavedBatch>), ApiError> {
        let (mut running, mut local) = (self.model.clone(), None);
        for change in changes {
            self.refuse_own_address(change, &mut local)?;
            change.apply(&mut running.services)?;
        }
        let saved = self.file.as_ref().zip(saved).map(|(file, changes)| {
            let mut model = file.model().clone();
            let applied = |change: &Change| change.apply(&mut model.services);
            SavedBatch {
                model: changes.iter().try_for_each(applied).map(|()| model),
                changes,
            }
        });
        Ok((running, saved))
    }
}
