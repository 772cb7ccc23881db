"""All texts of the page and of the API's errors."""

from latentsync.weights import FETCH_INFERENCE

TITLE = "LatentSync"
SUBTITLE = "Give a video of somebody speaking and new audio: the lips will match the new audio."
DEMO_NOTE = (
    "These are the small **demo models**. They were trained on drawn heads: on real people the lips will not look right. For"
    f" the official weights run `{FETCH_INFERENCE}` in the project's folder and reload this page."
)
MODEL_NOTE = "Models: **{title}**, faces of {resolution} px."

VIDEO, AUDIO = "Video", "Audio"
EXAMPLE_BUTTON = "Example: {title}"
PRESET, PRESET_INFO = (
    "Quality",
    "From the fastest to the best; Custom keeps the rest of the quality chosen before it.",
)
PRESETS = {"turbo": "Turbo", "fast": "Fast", "balanced": "Balanced", "quality": "Best quality"}
CUSTOM_PRESET = "custom"
CUSTOM_TITLE = "Custom"
TIMES, TIME = "For this clip, on this machine: {times}.", "{preset} about {time}"
TIMES_UNKNOWN = "How long this clip takes is known after the first preview or run with this model on this machine."

FACE_SECTION = "Whose lips"
FACE = "Face"
FACE_INFO = (
    "Choose one, or click on a face in the picture below. You can also type x,y@seconds, or a person's number on the sheet of a"
    " check."
)
FACE_CHOICES = (("The largest face", "largest"), ("The face nearest the centre", "center"))
FRAME_SEC, FRAME_SEC_INFO = "Second of the video", "Which frame is shown below."
FRAME = "Click on the face whose lips should change:"
FRAME_ALT = (
    "A frame of your video with numbered faces; click on the face whose lips should change, or choose its number below"
)
FACE_NUMBER = "Face in this picture"
FACES = ("no face", "one face", "{count} faces")
FACES_HERE = "This picture shows {count}. Click on the one whose lips should change, or choose its number."
FACE_CHOSEN = "Face {number} of this picture is chosen."
NO_FACE_HERE = "No face was found in this picture: choose another second of the video."

PEOPLE_SECTION = "Audio for each person"
PEOPLE_INFO = (
    "The people in the picture above. Give a file to each one whose lips should change: it begins with the video and is silent"
    " where they do not speak. The audio at the top, if there is any, is that of the result; else it is the sum of these."
)
PERSON, PERSON_AUDIO, PERSON_PICTURE = "Face {number}", "Audio of face {number}", "Face {number} of the picture above"
PEOPLE_AUDIO = ("no audio files", "one audio file", "{count} audio files")

SPEAKERS = "Who speaks"
SPEAKERS_INFO = (
    "Of several people everybody gets the part of the audio in which they speak in the video, and the choice of a face above does"
    " not count. If there is audio for each person, that holds instead, and the table is not used."
)
SPEAKERS_CHOICES = (("The chosen face says all of the audio", ""), ("Several people: find who speaks when", "auto"))
TIMELINE = "Who speaks when"
TIMELINE_INFO = (
    "Correct what is wrong: the next check, preview or run is made with these rows. Without rows it is found anew."
)
TIMELINE_EMPTY = "Check first or Run finds who speaks when, by the lips and the video's own audio, and shows it here."
TIMELINE_PERSON, TIMELINE_SPAN = "Person {number}", "{person}: {start} to {stop} s"
TIMELINE_HEAD = ("Person", "Start, s", "End, s")
TIMELINE_FIELD = "{name}, row {number}"
TIMELINE_ADD, TIMELINE_REMOVE, TIMELINE_CLEAR = "Add a row", "Remove row {number}", "Remove all rows"
NO_ROWS = "The table of who speaks cannot be read: remove all its rows, and find it anew."
WRONG_ROW = (
    "Row {number} of the table of who speaks is incomplete: give a person's number, a start and an end in seconds."
)
WRONG_PERSON = (
    "Row {number} of the table of who speaks names person {person}: give a number of the sheet of a check, 1 or more."
)
WRONG_SPAN = "Row {number} of the table of who speaks is from {start:g} to {stop:g} s: give an end after the start."

LIPS_SECTION = "Lips"
SILENCE = "In pauses of the audio"
SILENCE_CHOICES = (
    ("As the model makes them", "model"),
    ("Rest: the mouth closes", "close"),
    ("Keep the lips of the video", "keep"),
)
OCCLUSION = "In front of the mouth (see the overview)"
OCCLUSION_CHOICES = (("Paint over everything", "off"), ("A hand or a microphone stays in front", "auto"))
TEXTURE = "Sharpness"
TEXTURE_CHOICES = (
    ("As the model recommends", ""),
    ("As sharp as the video around it", "match"),
    ("As the networks make it", "off"),
)
STRENGTH, STRENGTH_INFO = "Strength", "How far the lips open: 1 as the model makes them, 0 closed."

PART_SECTION = "Preview and parts of the video"
START, START_INFO = (
    "Preview from this second on",
    "Preview 3 seconds makes a short file; Run always makes the whole one.",
)
RANGES, RANGES_INFO = (
    "Change only these parts",
    "Seconds such as 12.5-31.0 40-45; the rest keeps its pictures and audio. Empty: all of the video. The new audio begins with"
    " the first part. A preview shows the beginning of the first part.",
)

BATCH_SECTION = "Several videos"
BATCH_INFO = (
    "One audio file for all videos, or one for each: by name, or in the same order. The settings above are for all."
)
BATCH_VIDEOS, BATCH_AUDIOS, BATCH_LIST = "Videos", "Audio files", "List of jobs (.csv or .jsonl), optional"
RUN_ALL = "Run all"
LIST_HEAD = ("Video", "Audio", "State", "Result")
NEED_LISTS = "Videos and audio are needed: add one or more of each."
UNEQUAL_LISTS = (
    "{videos} videos and {audios} audio files do not match: give one audio file for all, or one for each video."
)
NOT_UPLOADED = "Job {number} of the list needs {name}, which was not uploaded: add it to the videos or the audio files."
LONG_LIST = "The list has {count} jobs, and the limit is {limit}: make two lists."

ADVANCED_SECTION = "Advanced settings"
STEPS, STEPS_INFO = "Inference steps", "More steps look better and take longer."
GUIDANCE, GUIDANCE_INFO = "Guidance scale", "How strongly the lips follow the audio; 1 is fastest."
SEED, SEED_INFO = "Seed", "The same seed gives the same result; -1 picks a new one each time."
LENGTH = "If the audio is longer than the video"
LENGTH_CHOICES = (
    ("Play the video back and forth", "bounce"),
    ("Repeat the video", "loop"),
    ("Hold its last frame", "hold"),
)
REST = "If the video is longer than the audio"
REST_CHOICES = (("Cut the rest", "cut"), ("Keep the rest unchanged", "keep"))
MISSING = "Frames without a face"
MISSING_CHOICES = (("Keep them unchanged", "passthrough"), ("Stop with an error", "error"))

MODEL_SECTION = "Models"
MODEL = "Model"
MODEL_TITLES = {"demo": "Demo models (drawn heads only)", "official": "Official weights", "own": "Own model"}
MODEL_TABLE_HEAD = ("File", "For", "Size", "State", "Licence")
MODEL_STATES = {"there": "installed", "missing": "missing", "damaged": "damaged", "other release": "other release"}
MODEL_COMMAND = "Download missing files with:"
MODEL_ALL_THERE = "All official weights are installed."

CHECK, PREVIEW, RUN, CANCEL, RESUME = "Check first", "Preview 3 seconds", "Run", "Cancel", "Go on"
TO_RESULT, TO_FORM = "Result", "Settings"
NOTIFY, NOTIFYING = "Notify me at the end", "You will be notified"
NOTIFY_DENIED = "This browser does not allow notifications from this page"
ENDED = "The job has ended"
WAIT_FOR_FILE = "Waiting for the file"
PLAYER_ORIGINAL, PLAYER_RESULT = "Original", "Result"
PLAYER_LABEL = "Original and result, played together"
PLAYER_PLAY, PLAYER_PAUSE, PLAYER_SEEK = "Play", "Pause", "Position"
PLAYER_SOUND_RESULT, PLAYER_SOUND_ORIGINAL, PLAYER_LOOP = "Audio: new", "Audio: old", "Repeat"
PLAYER_COMPARE, PLAYER_SIDES, PLAYER_WIPE = "Comparison", "Side by side", "Wipe"
PLAYER_DIVIDER = "Where the original ends and the result begins"
PLAYER_ZOOM, PLAYER_BACK, PLAYER_ON, PLAYER_FULL = "Zoom on the mouth", "One frame back", "One frame on", "Fullscreen"
PLAYER_UNPLAYABLE = "This browser cannot play the format of this file; download it instead."
COPY_NEEDED = "This browser cannot play the format of this file."
COPY_COMING = "A small copy for this page is being made ({share:.0%}); jobs use the file itself."
COPY_SHOWN = "A small copy is shown; jobs use the file itself."
NO_COPY = "A small copy for this page could not be made; jobs use the file itself."
DOWNLOAD_VIDEO, DOWNLOAD_SHEET, DOWNLOAD_REPORT = "Download the video", "Download the sheet", "Download the report"
SHEET = "Faces that were found: those in green frames will be changed. Click to open the picture in full size."
SHEET_ALT = "Frames of the video with the faces that were found; the message above describes the same"
REPORT_SECTION = "Report"
NO_RESULT = "No result yet. Give a video and audio, then press Check first, Preview 3 seconds or Run."
HISTORY_SECTION = "Earlier jobs"
HISTORY, HISTORY_INFO = (
    "Your jobs",
    "Choose one to see it again, with its settings. Jobs are deleted {hours} after they end.",
)
DELETE = "Delete this job's files"
KINDS = {"preflight": "Check", "preview": "Preview", "run": "Run"}
STATES = {
    "waiting": "waiting",
    "running": "running",
    "done": "done",
    "failed": "failed",
    "cancelled": "cancelled",
    "interrupted": "interrupted",
}

WAITING = "Waiting: {place} before this one."
JOBS_BEFORE = ("no job", "one job", "{count} jobs")
LOAD_STAGE = "Load the models"
WRITE_STAGE = "Write the file"
BEGIN_STAGE = "Open the files"
STAGES = {"Find the face": "find the face", "Generate lips": "generate lips", "Draw the sheet": "draw the overview"}
STEP = "Step {number} of {count}: {stage}"
FRAMES_DONE = "{done} of {total} frames"
LEFT = "about {time} left in this step"
ELAPSED = "{time} so far"
SENDING = "Checking the files"
CANCELLING = "Cancelling after the current window"
CANCELLED = "Cancelled. Nothing was kept of this job."
CHECKED = "Check: {summary}"
FINISHED = "Done: {summary}"
DELETED = "The files of the job were deleted, with the uploads that no other job uses."

REPORT_ROWS = {
    "length": "Length",
    "frames": "Frames",
    "passed": "Unchanged frames",
    "settings": "Settings",
    "timings": "Seconds spent",
    "model": "Computed on",
}
NOTHING_PASSED = "none"
SETTINGS_LINE = "{steps} steps, guidance {guidance_scale:g}, seed {seed}, face: {face}"
TIMINGS = {
    "detect": "finding faces",
    "read": "reading",
    "align": "aligning",
    "listen": "encoding audio",
    "encode": "encoding faces",
    "sample": "sampling",
    "decode": "decoding faces",
    "match colour": "matching colours",
    "finish": "finishing the new faces",
    "paste": "pasting",
    "write": "writing",
    "join": "joining",
}

MEDIA_FACTS = "{width} x {height}, {fps:g} frames per second, {time}"
SOUND_FACTS = "{time} of audio"

NEED_BOTH = "A video and audio are needed: add the missing one, or press the example button."
FILE_GONE = "The file {name} is no longer on the server: upload it again."
EMPTY_FILE = "{name} is empty (0 bytes): choose another file, or export it again."
TOO_BIG = "{name} has {size}, and the limit is {limit}: cut the file or encode it smaller."
SOUND_TOO_LONG = "{name} lasts {time}, and the limit is {limit}: cut it, or use inference.sh, which has no limit."
VIDEO_TOO_LONG = (
    "{name} lasts {time}, and the limit for videos is {limit}: cut it, or use inference.sh, which has no limit."
)
FRAME_TOO_LARGE = "{name} has {width} x {height} pixels, more than the limit: scale it down, or use inference.sh."
NO_SOUND = "{name} has no audio: choose a file with an audio track."
TOO_MANY = "{count} jobs are already waiting: try again in a few minutes."
TOO_MANY_YOURS = (
    "You already have {count} unfinished jobs, and the limit is {limit}: wait for one of them, or cancel it."
)
TOO_MANY_NEAR = "{count} unfinished jobs come from your address: wait until one of them has ended."
FOREIGN_HOST = (
    "This app does not answer under the name {host}: open it by the address that it printed, or start it with"
    " --allow_host {host}."
)
FOREIGN_ORIGIN = (
    "Pages of other websites may not use this app: open its own page, or send the request without the header Origin."
)
WAIT_TO_LOG_IN = "Too many wrong passwords came from your address: wait {count} s, then try again."
UNKNOWN_JOB = "There is no such job: check the id; the job may belong to somebody else, or have been deleted."
UNKNOWN_LIST = (
    "There is no such list of jobs: check the id; the list may belong to somebody else, or have been deleted."
)
EXPIRED = "The job has expired, and its files were deleted: submit it again."
UNFINISHED_JOB = "The job is {state}: wait until it is done."
UNFINISHED_DELETE = "The job {id} is {state}: cancel it before it is deleted."
NO_FILES = "The job is {state} and has no files: {error}"
UNKNOWN_MODEL = "There is no model {name!r}: choose {known}."
MISSING_MODEL = "{title}: {reason} Run commands in the project's folder, or choose another model."
UNKNOWN_KIND = "There is no kind of job {name!r}: choose {known}."
WRONG_FACE = "The face {text!r} is unknown: give largest, center, a person's number, or x,y@seconds."
WRONG_OCCLUSION = "The occlusion {text!r} is unknown: give auto or off."
NO_SPEAKERS = "Nothing was found about who speaks: this job did not ask for it."
WRONG_CONTENT = (
    "The speakers are incomplete: give an object with people, each with a face, and a list of segments, as docs/dubbing.md"
    " describes (cues and tables of segments need files that the server does not have)."
)
AUDIO_AND_SPEAKERS = (
    "The speakers name their audio files themselves: leave out audio, and give a mix as mix among the speakers."
)
WRONG_SPEAKERS = "The speakers {text!r} are unknown: give auto."
WRONG_NUMBER = "{name} is {value!r}: give a number."
UNEXPECTED = "An internal error ended this job ({kind}): see the log of the app, or try other files."
STOPPED = "The app was stopped before this job was done; it can go on from where it was."
CANNOT_GO_ON = "The job is {state} and cannot go on: submit it again."
DISK_FULL = "The disk of the app is full: delete the files of earlier jobs, or ask whoever runs the app for space."
STORE_FULL = (
    "All users together have stored {limit}, the limit of this app: delete files of earlier jobs, or try again later."
)
QUOTA_USED = "With this file you would have stored more than {limit}, your limit: delete files of earlier jobs first."
LENGTH_UNKNOWN = "The request does not state its length: send the header Content-Length."
LONG_REQUEST = "The request is longer than this app needs: send files by the route /upload."
UPLOAD_FAILED = "The file could not be stored: try again, and see the log of the app if it fails again."
NOT_WRITTEN = "The app cannot write its files: {reason}. Ask whoever runs it."
BIG_UPLOAD = "This file is larger than {limit}, the limit: cut it or encode it smaller."

# parts of the library's messages that name options of the command line -> the words of the page
PAGE_WORDS = {
    "use --on_missing_face passthrough, or cut the video": "keep such frames unchanged (Advanced settings), or cut the video",
    "--preflight shows them": "Check first shows them",
}
NO_CHECKPOINT = "The checkpoint {path} does not exist: give the path of a U-Net."
PORT_TAKEN = "Port {port} cannot be used, probably because another program uses it: give another --port."
NEEDS_LOGIN = "{what} lets others reach the app: add --user NAME to require a password."

# of the job API
API_TITLE = "LatentSync job API"
API_ABOUT = (
    "Lip-sync jobs for programs: make jobs from uploads or files of the server, follow them, and fetch their results."
)
API_BUG = "An internal error ended this request ({kind}): see the log of the app."
API_TOKEN = "Give the token of a client of this app in the header Authorization: Bearer TOKEN."
TOO_MANY_REQUESTS = "Too many requests: wait {count} s, then try again."
NO_SUCH_ROUTE = "There is no such address: the job API is described at {url}."
WRONG_METHOD = "This address does not answer {method}: the job API is described at {url}."
WRONG_RANGE = "The header Range asks for no part of this file: leave it out, or ask for bytes that the file has."
BAD_BODY = "The body of the request is not {kind}: {reason}."
WRONG_MEDIA_TYPE = (
    "Send the job as multipart/form-data with the files, or as application/json with paths of the server's files."
)
WRONG_FIELD = "{name} is {value}: {reason}."
WRONG_ENTRY = "Job {number} of the list: {reason}"
FILE_TOO_LARGE = "A file of the request is larger than {limit}, the limit: cut it or encode it smaller."
FIELD_TOO_LARGE = "A field of the request is longer than {limit}: send files as file fields, with a file name."
NO_INPUT_FOLDER = "This app reads no files of its server: upload {name}, or start the app with --input_folder FOLDER."
OUTSIDE_INPUT_FOLDERS = (
    "There is no file {name} in the folders that this app may read: check the path, or upload the file."
)
ONE_FILE_EACH = "A job has one video and one audio file: send each field once, or make a list of jobs."
SAME_FILE_NAME = "Two uploaded files are called {name}: give each its own name."
OTHER_REQUEST = "This Idempotency-Key was used for another request: use a new key, or send the same request again."
TOO_MANY_STREAMS = "You already follow {count} jobs: close one of these connections, or ask for the status instead."
NO_WEBHOOKS = (
    "This app calls no webhooks: leave out webhook_url, or start the app with --webhook_host and the host's name."
)
WEBHOOK_HOST = "The webhook's host {host} is not allowed: choose {known}, or start the app with --webhook_host {host}."
WEBHOOK_URL = "The webhook_url is no address of the form https://HOST/PATH without a password: correct it."
WEBHOOK_REDIRECTS = "The host answered {status}; redirects are not followed"
WEBHOOK_STATUS = "The host answered {status}"
WEBHOOK_PRIVATE = "The host has the private address {address}"
WEBHOOK_UNREACHED = "The host could not be reached ({reason})"
WEBHOOK_NO_TOKEN = "The job's client has no token any more"
WRONG_TOKENS = (
    "{source}, entry {number}: give NAME:TOKEN, with a name of letters, digits, dot, - or _, and a token of at least {length}"
    " letters, digits, - or _."
)
TOKEN_TWICE = "{source}: two clients have the name {name} or its token: give each its own."
NO_TOKEN_FILE = "The file of tokens {path} cannot be read: give a file with lines of the form NAME:TOKEN."
NO_FOLDER = "--input_folder {path} is no folder: give one that exists."
