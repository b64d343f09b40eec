"""What becomes of DataUploads, DataDownloads, PodVolumeBackups and PodVolumeRestores.

Here, and nowhere else, the phase of an object is decided. One state machine serves the four kinds; a module each says
what differs. Not here: how a volume is got at (`exposers`) and how data moves (`movers`). Called by `server` only.
"""
