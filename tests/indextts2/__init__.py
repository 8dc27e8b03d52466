"""IndexTTS2 where neither its code nor its weights can be: a stand-in with the same signatures, and an ear for what it says."""
