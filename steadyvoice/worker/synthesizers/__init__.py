"""Text to speech. Each module is one engine behind `steadyvoice.worker.models.Model`; items are `SynthesizeItem`s."""
