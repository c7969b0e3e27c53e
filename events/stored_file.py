"""An answer that is one file of a stored folder, which stays for as long as the answer takes to be sent."""

from fastapi.responses import FileResponse, Response
from starlette.types import Receive, Scope, Send

from events.blobs import Blobs
from events.failure import NotFound


class StoredFile(Response):
    """Answers requests for ranges of the file, too; 404 where there is no such file."""

    def __init__(
        self, blobs: Blobs, key: str, file: str, *, called: str | None = None, media_type: str | None = None
    ) -> None:
        """key: of the folder. called: the file's name for the client; None = its own."""
        super().__init__(media_type=media_type)
        self._blobs, self._key, self._file = blobs, key, file
        self._called = called or file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises NotFound before anything is sent."""
        async with self._blobs.folder(self._key) as folder:
            path = folder / self._file
            if path.parent != folder or not path.is_file():
                raise NotFound(f"file {self._file!r} does not exist")
            await FileResponse(path, filename=self._called, media_type=self.media_type)(scope, receive, send)
