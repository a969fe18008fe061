"""The version of the plugin API. A plugin module says which one it was written for.

``YOBAN_PLUGIN_API = (major, minor)`` in the plugin's module is checked at load: the major must be equal and the minor
not newer than ours. A minor adds (a facet, a method with a default, a field with a default); a major may remove.
"""

from __future__ import annotations

API_VERSION: tuple[int, int] = (1, 0)
