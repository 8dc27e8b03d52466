"""Downloads releases of weights to this machine; `python -m steadyvoice.provision.download` that of SenseVoiceSmall.

The files come from ModelScope or Hugging Face (`STEADYVOICE_HUB`) with the hub's own client, into a folder beside the final
one that is kept between attempts. Only when every file has the size and checksum that the hub listed is a manifest written and
the folder renamed into place: half a download never looks whole. With the release in place nothing is connected to. Runs in a
process of its own: no app imports it, nor the clients that it loads.
"""
